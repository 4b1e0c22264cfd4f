//! The crate's errors as Python's exceptions.

use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::Error;

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
