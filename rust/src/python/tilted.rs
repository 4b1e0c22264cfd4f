//! A network's distribution, tilted by an oracle's n-grams.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use numpy::{IntoPyArray, PyArray1, PyReadwriteArray1};
use pyo3::prelude::*;

use super::arrays::{array, slice, tokens as tokens_array};
use super::oracle::FrozenOracle;
use crate::experts::tilted;
use crate::fingerprint::Stateful;
use crate::parallel::lock;
use crate::Error;

#[pyclass(module = "hybridlm._core", frozen)]
pub(super) struct TiltedExpert {
    core: Mutex<tilted::Tilted>,
}

type Listed<'py> = (Bound<'py, PyArray1<u16>>, Bound<'py, PyArray1<u32>>);

#[pymethods]
impl TiltedExpert {
    #[new]
    fn new(oracle: &FrozenOracle) -> PyResult<Self> {
        let core = tilted::Tilted::new(Arc::clone(&oracle.core));
        let core = core.ok_or_else(|| {
            Error::input(format!("a {} oracle has no n-grams to tilt by", oracle.core.estimator()))
        })?;
        Ok(Self { core: core.into() })
    }

    fn raised_tokens<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        start: usize,
    ) -> PyResult<Listed<'py>> {
        let tokens = tokens_array(tokens)?;
        let tokens = slice(&tokens);
        let (found, ends) = py.detach(|| lock(&self.core).raised_tokens(tokens, start))?;
        Ok((found.into_pyarray(py), ends.into_pyarray(py)))
    }

    fn mix<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        start: usize,
        log_probs: &Bound<'py, PyAny>,
        of_raised: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let tokens = tokens_array(tokens)?;
        let tokens = slice(&tokens);
        let mut found = slice(&array::<f32>(log_probs, "log_probs", "float32")?).to_vec();
        let of_raised = array::<f32>(of_raised, "of_raised", "float32")?;
        let of_raised = slice(&of_raised);
        py.detach(|| lock(&self.core).mix(tokens, start, of_raised, &mut found))?;
        Ok(found.into_pyarray(py))
    }

    /// The rows [n, V] and ln p [n] of the targets, from the network's rows [n, V].
    fn mix_rows<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        start: usize,
        rows: &Bound<'py, PyAny>,
        tilted: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let tokens = tokens_array(tokens)?;
        let tokens = slice(&tokens);
        let rows = array::<f32>(rows, "rows", "float32")?;
        let rows = slice(&rows);
        let mut tilted = tilted.extract::<PyReadwriteArray1<f32>>()?;
        let tilted = tilted.as_slice_mut()?;
        let mut found = vec![0f32; tokens.len().saturating_sub(start)];
        py.detach(|| lock(&self.core).mix_rows(tokens, start, rows, tilted, &mut found))?;
        Ok(found.into_pyarray(py))
    }

    fn row<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        row: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let tokens = tokens_array(tokens)?;
        let tokens = slice(&tokens);
        let mut row = slice(&array::<f32>(row, "row", "float32")?).to_vec();
        py.detach(|| lock(&self.core).tilt_row(tokens, &mut row))?;
        Ok(row.into_pyarray(py))
    }

    fn state<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        lock(&self.core).state().into_pyarray(py)
    }

    fn restore(&self, state: &Bound<'_, PyAny>) -> PyResult<()> {
        let state = array::<f64>(state, "state", "float64")?;
        Ok(lock(&self.core).restore(slice(&state))?)
    }

    fn fingerprint(&self) -> Cow<'static, [u8]> {
        lock(&self.core).fingerprint().to_vec().into()
    }
}
