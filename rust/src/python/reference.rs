//! Experts that learn while they score.

use std::borrow::Cow;

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray2};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::arrays::{slice, tokens as tokens_array};
use super::errors::InputError;
use super::experts::rows_array;
use crate::experts::reference::{OnlineExperts as Core, NAMES};
use crate::fingerprint::Stateful;
use crate::parallel;

#[pyclass(module = "hybridlm._core", frozen)]
struct OnlineExperts {
    // A lock rather than a borrow: methods give the GIL up while they change the state.
    core: std::sync::Mutex<Core>,
    vocab_size: usize,
}

impl OnlineExperts {
    fn with<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Core) -> T + Send) -> T {
        py.detach(|| work(&mut parallel::lock(&self.core)))
    }
}

#[pymethods]
impl OnlineExperts {
    #[new]
    fn new(vocab_size: usize) -> PyResult<Self> {
        Ok(Self { core: Core::new(vocab_size)?.into(), vocab_size })
    }

    #[classattr]
    fn names(py: Python<'_>) -> PyResult<Py<PyTuple>> {
        Ok(PyTuple::new(py, NAMES)?.unbind())
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn fingerprint(&self, py: Python<'_>) -> Cow<'static, [u8]> {
        self.with(py, |core| core.fingerprint().to_vec().into())
    }

    fn observe(&self, py: Python<'_>, tokens: &Bound<'_, PyAny>) -> PyResult<()> {
        let tokens = tokens_array(tokens)?;
        let tokens = slice(&tokens);
        Ok(self.with(py, |core| core.observe(tokens))?)
    }

    #[pyo3(signature = (tokens, rows=None))]
    fn score<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        rows: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let tokens = tokens_array(tokens)?;
        let tokens = slice(&tokens);
        let mut rows = rows.map(rows_array).transpose()?;
        let rows = rows.as_mut().map(|rows| rows.as_slice_mut()).transpose()?;
        let mut out = vec![0f32; NAMES.len() * tokens.len()];
        self.with(py, |core| core.score(tokens, &mut out, rows))?;
        matrix(py, NAMES.len(), tokens.len(), out)
    }

    fn next_log_probs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let mut out = vec![0f32; NAMES.len() * self.vocab_size];
        self.with(py, |core| core.next_log_probs(&mut out));
        matrix(py, NAMES.len(), self.vocab_size, out)
    }
}

fn matrix(py: Python<'_>, rows: usize, columns: usize, data: Vec<f32>) -> PyResult<Bound<'_, PyArray2<f32>>> {
    let array = Array2::from_shape_vec((rows, columns), data);
    Ok(array.map_err(|error| InputError::new_err(error.to_string()))?.into_pyarray(py))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<OnlineExperts>()
}
