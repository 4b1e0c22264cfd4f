//! Jobs over threads: each once, and the error of the first one that failed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

use hybridlm_core::parallel::{for_each, pipeline, run, run_with};
use hybridlm_core::Error;

#[test]
fn every_job_runs_once_and_every_state_ends_once() {
    for threads in [0, 1, 2, 5] {
        let done: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        let sums = Mutex::new(Vec::new());
        run_with(
            threads,
            done.len(),
            || Ok(0),
            |sum, job| {
                *sum += job;
                done[job].fetch_add(1, Ordering::Relaxed);
                Ok(())
            },
            |sum| sums.lock().unwrap().push(sum),
        )
        .unwrap();
        assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        assert_eq!(sums.lock().unwrap().iter().sum::<usize>(), 4950);
    }
}

#[test]
fn the_first_failed_job_is_the_one_reported() {
    for threads in [1, 2, 4] {
        let error = run(threads, 50, |job| if job >= 3 { Err(Error::input(job)) } else { Ok(()) });
        assert_eq!(error.unwrap_err().to_string(), "3");
    }
}

#[test]
fn pieces_are_handed_out_whole() {
    let mut data = vec![0usize; 1000];
    for_each(3, data.chunks_mut(7).enumerate().collect(), |(index, piece)| {
        piece.fill(index);
        Ok(())
    })
    .unwrap();
    assert!(data.iter().enumerate().all(|(at, &value)| value == at / 7));
}

#[test]
fn whatever_is_handed_out_is_done_once() {
    for threads in [0, 1, 2, 5] {
        let done: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        let produce = |hand_out: &mut dyn FnMut(usize) -> Result<(), Error>| (0..100).try_for_each(hand_out);
        pipeline(threads, produce, |piece: usize| {
            done[piece].fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn an_error_on_either_side_of_a_pipeline_is_returned() {
    for threads in [1, 3] {
        let fails = |hand_out: &mut dyn FnMut(usize) -> Result<(), Error>| {
            hand_out(1)?;
            Err(Error::input("produced"))
        };
        let error = pipeline(threads, fails, |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "produced");
        let produce = |hand_out: &mut dyn FnMut(usize) -> Result<(), Error>| (0..9).try_for_each(hand_out);
        let fails = |piece| if piece == 4 { Err(Error::input("consumed")) } else { Ok(()) };
        assert_eq!(pipeline(threads, produce, fails).unwrap_err().to_string(), "consumed");
    }
}
