//! Long work that Ctrl-C stops and a progress function is told of.

use std::any::Any;
use std::sync::mpsc;
use std::time::Duration;

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;

use crate::parallel::{self, Control};
use crate::Result;

/// How often the interpreter gets to see a signal, and a progress function is called.
const POLL: Duration = Duration::from_millis(50);

/// A panic, which is a bug of ours, as an exception that `except Exception` catches.
fn internal_error(panic: &(dyn Any + Send)) -> PyErr {
    let message = panic.downcast_ref::<&str>().map(ToString::to_string);
    let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
    PyRuntimeError::new_err(format!("internal error: {}", message.as_deref().unwrap_or("a panic")))
}

/// Does long work on another thread while this one, without the GIL but for a moment each time, looks
/// for signals (Ctrl-C) and reports `control.done()` to `progress`. If either raises, the work is
/// stopped and the exception passed on.
pub fn interruptible<T: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&Control) -> Result<T> + Send,
) -> PyResult<T> {
    let control = Control::default();
    let (finished, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let control = &control;
        let worker = std::thread::Builder::new().spawn_scoped(scope, move || {
            // Dropped however the work ends, which wakes the waiting side.
            let _finished = finished;
            work(control)
        });
        let worker = worker.map_err(|error| PyOSError::new_err(format!("no thread to work on: {error}")))?;
        let mut raised = None;
        let wait = std::sync::Mutex::new(wait);
        loop {
            let timed_out = py.detach(|| {
                let wait = parallel::lock(&wait);
                wait.recv_timeout(POLL) == Err(mpsc::RecvTimeoutError::Timeout)
            });
            if !timed_out {
                break;
            }
            if raised.is_none() {
                let report = py.check_signals().and_then(|()| match progress {
                    Some(progress) => progress.call1((control.done(),)).map(drop),
                    None => Ok(()),
                });
                if let Err(error) = report {
                    control.cancel();
                    raised = Some(error);
                }
            }
        }
        let result = match py.detach(|| worker.join()) {
            Ok(result) => result,
            Err(panic) => return Err(internal_error(&*panic)),
        };
        match raised {
            Some(error) => Err(error),
            None => Ok(result?),
        }
    })
}
