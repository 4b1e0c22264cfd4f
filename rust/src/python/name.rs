//! What errors call a piece of data: a file's name, usually.

use pyo3::prelude::*;
use pyo3::types::PyString;

/// A name from Python. One that isn't UTF-8, as a file's may be, keeps what of it is.
pub struct Name(String);

impl Name {
    pub fn of(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'py> FromPyObject<'_, 'py> for Name {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(value.cast::<PyString>()?.to_string_lossy().into_owned()))
    }
}
