//! Byte models to compare with.

use std::sync::Mutex;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::interruptible::interruptible;
use super::name::Name;
use crate::baseline::{Baseline, Method};
use crate::parallel::lock;

#[pyclass(module = "hybridlm._core", frozen)]
struct ByteModel {
    // A lock rather than a borrow: methods give the GIL up while they change the state.
    core: Mutex<Baseline>,
}

#[pymethods]
impl ByteModel {
    #[new]
    #[pyo3(signature = (method, depth=None))]
    fn new(method: &str, depth: Option<usize>) -> PyResult<Self> {
        let method = Method::parse(method)?;
        Ok(Self { core: Baseline::new(method, depth.unwrap_or(method.default_depth()))?.into() })
    }

    #[staticmethod]
    #[pyo3(signature = (data, name=Name::of("baseline"), progress=None), text_signature = "(data, name='baseline', progress=None)")]
    fn from_bytes(
        py: Python<'_>,
        data: &[u8],
        name: Name,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let core = interruptible(py, progress, |control| Baseline::from_bytes(data, &name, control))?;
        Ok(Self { core: core.into() })
    }

    #[getter]
    fn method(&self, py: Python<'_>) -> &'static str {
        py.detach(|| lock(&self.core).method().name())
    }

    #[getter]
    fn depth(&self, py: Python<'_>) -> usize {
        py.detach(|| lock(&self.core).depth())
    }

    #[pyo3(signature = (text, progress=None))]
    fn code(&self, py: Python<'_>, text: &[u8], progress: Option<&Bound<'_, PyAny>>) -> PyResult<f64> {
        interruptible(py, progress, |control| lock(&self.core).code(text, control))
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let data = interruptible(py, None, |control| lock(&self.core).to_bytes(control))?;
        Ok(PyBytes::new(py, &data))
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ByteModel>()
}
