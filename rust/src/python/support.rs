//! The Python binding: converts arguments, releases the GIL, calls the core, converts the result.
//! Nothing else in the crate names pyo3. One submodule per area, each with its own `register`.

mod baseline;
mod codec;
mod counts;
mod experts;
mod files;
mod online;
mod oracle;
mod sparse;

use std::sync::mpsc;
use std::time::Duration;

use numpy::{Element, PyReadonlyArray1, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::parallel::Control;
use crate::vocabulary::Vocabulary;
use crate::{Error, Result};

pyo3::create_exception!(
    hybridlm._core,
    InputError,
    PyValueError,
    "The input can't be used as given; the message says which and what to do."
);
pyo3::create_exception!(
    hybridlm._core,
    FormatError,
    InputError,
    "A file is not what it claims to be: foreign, truncated or altered."
);

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Io { ref path, ref source } => match source.raw_os_error() {
                // OSError(errno, message, file name) picks the subclass, FileNotFoundError and the like.
                Some(errno) => {
                    let full = source.to_string();
                    let message = full.split(" (os error").next().unwrap_or(&full).to_owned();
                    PyOSError::new_err((errno, message, path.display().to_string()))
                }
                None => PyOSError::new_err(error.to_string()),
            },
            Error::Format { .. } => FormatError::new_err(error.to_string()),
            Error::Input(message) => InputError::new_err(message),
            Error::Interrupted => PyKeyboardInterrupt::new_err(()),
        }
    }
}

/// How often the interpreter gets to see a signal, and a progress function is called.
const POLL: Duration = Duration::from_millis(50);

/// Does long work on another thread while this one, without the GIL but for a moment each time, looks
/// for signals (Ctrl-C) and reports `control.done()` to `progress`. If either raises, the work is
/// stopped and the exception passed on.
fn interruptible<T: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&Control) -> Result<T> + Send,
) -> PyResult<T> {
    let control = Control::default();
    let (finished, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let control = &control;
        let worker = scope.spawn(move || {
            // Dropped however the work ends, which wakes the waiting side.
            let _finished = finished;
            work(control)
        });
        let mut raised = None;
        let wait = std::sync::Mutex::new(wait);
        loop {
            let timed_out = py.detach(|| {
                let wait = wait.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
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
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match raised {
            Some(error) => Err(error),
            None => Ok(result?),
        }
    })
}

/// The array `value` as a contiguous one of one dimension and type `T`, or a refusal that names it.
fn array<'py, T: Element>(
    value: &Bound<'py, PyAny>,
    name: &str,
    dtype: &str,
) -> PyResult<PyReadonlyArray1<'py, T>> {
    let wrong = |what: String| {
        PyTypeError::new_err(format!("{name} must be a contiguous 1-D {dtype} array, not {what}"))
    };
    if let Ok(array) = value.extract::<PyReadonlyArray1<'py, T>>() {
        if array.as_slice().is_ok() {
            return Ok(array);
        }
        return Err(wrong("a strided view; use numpy.ascontiguousarray".into()));
    }
    let kind = match value.cast::<PyUntypedArray>() {
        Ok(array) => format!("{}-D {}", array.ndim(), array.dtype()),
        Err(_) => value.get_type().name()?.to_string(),
    };
    Err(wrong(kind))
}

fn tokens<'py>(value: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArray1<'py, u16>> {
    array(value, "tokens", "uint16")
}

/// The slice of an array that [`array`] has found contiguous.
fn slice<'a, T: Element>(array: &'a PyReadonlyArray1<'_, T>) -> &'a [T] {
    array.as_slice().unwrap_or_default()
}

fn positions(value: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    let array = array::<i64>(value, "positions", "int64")?;
    let convert = |&position: &i64| {
        usize::try_from(position).map_err(|_| InputError::new_err(format!("position {position} is negative")))
    };
    slice(&array).iter().map(convert).collect()
}

/// A vocabulary from a number of tokens, or from anything with the attributes of `hybridlm.data.vocabulary`'s.
fn vocabulary(value: &Bound<'_, PyAny>) -> PyResult<Vocabulary> {
    if let Ok(size) = value.extract::<usize>() {
        return Ok(size.into());
    }
    let (size, bos): (usize, i64) = (value.getattr("size")?.extract()?, value.getattr("bos_id")?.extract()?);
    let bos = u16::try_from(bos)
        .map_err(|_| InputError::new_err(format!("document token {bos} is outside any vocabulary")))?;
    let wrong = |digits: &str| {
        InputError::new_err(format!("a tokenizer's fingerprint has 64 hexadecimal digits, unlike {digits:?}"))
    };
    let fingerprint = match value.getattr("fingerprint")?.extract::<Option<String>>()? {
        Some(digits) => Some(from_hex(&digits).ok_or_else(|| wrong(&digits))?),
        None => None,
    };
    Ok(Vocabulary { size, bos, fingerprint })
}

/// What `Vocabulary` of `hybridlm.data.vocabulary` is made of: size, document token, fingerprint in hexadecimal.
type Identity = (usize, u16, Option<String>);

fn identity(vocabulary: &Vocabulary) -> Identity {
    (vocabulary.size, vocabulary.bos, vocabulary.fingerprint.map(|fingerprint| hex(&fingerprint)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    if digits.len() != 2 * N || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..digits.len()).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("InputError", module.py().get_type::<InputError>())?;
    module.add("FormatError", module.py().get_type::<FormatError>())?;
    files::register(module)?;
    counts::register(module)?;
    oracle::register(module)?;
    sparse::register(module)?;
    online::register(module)?;
    experts::register(module)?;
    baseline::register(module)?;
    codec::register(module)
}
