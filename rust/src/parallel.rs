//! Work over scoped threads, with a way to watch it and to stop it.
//!
//! Threads live only as long as a call: nothing of the crate outlives it, so a process that forks
//! (as a data loader does) never inherits a pool whose threads are gone.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{mpsc, Mutex, MutexGuard, PoisonError};

use crate::{Error, Result};

/// What a long computation shares with whoever waits for it: how much is done, and whether to stop.
#[derive(Debug, Default)]
pub struct Control {
    done: AtomicU64,
    cancelled: AtomicBool,
}

impl Control {
    /// Adds finished work; [`Error::Interrupted`] once the caller has asked to stop.
    pub fn advance(&self, amount: u64) -> Result<()> {
        self.done.fetch_add(amount, Ordering::Relaxed);
        self.check()
    }

    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

/// Runs `job(0), …, job(jobs - 1)` on up to `threads` threads, each taking the next undone one.
///
/// After an error no further job starts; of several errors the one of the lowest job is returned, so
/// the message doesn't depend on timing more than it must.
pub fn run(threads: usize, jobs: usize, job: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    run_with(threads, jobs, || Ok(()), |(), index| job(index), |()| ())
}

/// [`run`], where each thread has a state of its own: made by `begin`, given up to `end` when no job is
/// left (not after an error).
pub fn run_with<S>(
    threads: usize,
    jobs: usize,
    begin: impl Fn() -> Result<S> + Sync,
    job: impl Fn(&mut S, usize) -> Result<()> + Sync,
    end: impl Fn(S) + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), (usize, Error)> {
        let mut state = None;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= jobs {
                break;
            }
            let result = match &mut state {
                Some(state) => job(state, index),
                None => begin().and_then(|fresh| job(state.insert(fresh), index)),
            };
            if let Err(error) = result {
                next.store(jobs, Ordering::Relaxed);
                return Err((index, error));
            }
        }
        if let Some(state) = state {
            end(state);
        }
        Ok(())
    };
    let results = std::thread::scope(|scope| {
        // Where the system has no more threads to give, those there are do the work.
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads.min(jobs)).map_while(spawn).collect();
        let mut results = vec![work()];
        for other in others {
            match other.join() {
                Ok(result) => results.push(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    });
    match results.into_iter().filter_map(Result::err).min_by_key(|(index, _)| *index) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Locks a mutex even if a thread has panicked while it held it: what is locked here is valid at any time.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the data out of its mutex, as [`lock`] does.
pub fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Hands each element of `pieces` to `job`, on up to `threads` threads.
pub fn for_each<T: Send>(threads: usize, pieces: Vec<T>, job: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    let slots: Vec<Mutex<Option<T>>> = pieces.into_iter().map(|piece| Mutex::new(Some(piece))).collect();
    run(threads, slots.len(), |index| {
        let piece = lock(&slots[index]).take();
        piece.map_or(Ok(()), &job)
    })
}

/// Takes a piece of work.
pub type HandOut<'a, T> = &'a mut dyn FnMut(T) -> Result<()>;

/// Does what `produce` hands out: on other threads while it goes on, and on this one too once it has ended. With a single
/// thread, each piece as soon as it is handed out.
pub fn pipeline<T: Send>(
    threads: usize,
    produce: impl FnOnce(HandOut<T>) -> Result<()>,
    consume: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    if threads < 2 {
        return produce(&mut |piece| consume(piece));
    }
    let (sender, receiver) = mpsc::channel();
    let receiver = Mutex::new(receiver);
    let work = || loop {
        let next = lock(&receiver).recv();
        match next {
            Ok(piece) => consume(piece)?,
            // All is handed out and done.
            Err(mpsc::RecvError) => return Ok(()),
        }
    };
    std::thread::scope(|scope| {
        // Where the system has no more threads to give, this one does the work.
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).map_while(spawn).collect();
        let produced = produce(&mut |piece| {
            // The receiver lives as long as this function.
            let _ = sender.send(piece);
            Ok(())
        });
        drop(sender);
        let mut results = vec![produced, work()];
        for other in others {
            results.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results.into_iter().collect()
    })
}
