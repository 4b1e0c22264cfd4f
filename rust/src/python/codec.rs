//! The lossless codec, and the predictor that drives it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::{interruptible, slice, tokens as tokens_array};
use crate::codec::predict::Predictor as Core;
use crate::codec::segment::{Piece, Segmenter as CoreSegmenter};
use crate::codec::{compress, decompress};
use crate::oracle;
use crate::parallel::Control;
use crate::Result;

fn predictor(vocab_size: usize, oracle: Option<&[u8]>, first: u16, name: &str) -> Result<Core> {
    let oracle = oracle.map(|data| oracle::load(data, name, 1, &Control::default())).transpose()?;
    Core::new(vocab_size, oracle, first)
}

#[pyclass(module = "hybridlm._core", frozen)]
struct Predictor {
    core: Mutex<Core>,
}

impl Predictor {
    fn with<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Core) -> T + Send) -> T {
        py.detach(|| {
            let mut core: MutexGuard<'_, Core> = self.core.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut core)
        })
    }
}

/// A token of the vocabulary, or a refusal.
fn checked(core: &Core, token: u16) -> Result<u16> {
    crate::oracle::check_tokens(&[token], core.vocab_size()).map(|()| token)
}

#[pymethods]
impl Predictor {
    #[new]
    #[pyo3(signature = (vocab_size, oracle=None, first=1, name="oracle"))]
    fn new(
        py: Python<'_>,
        vocab_size: usize,
        oracle: Option<&[u8]>,
        first: u16,
        name: &str,
    ) -> PyResult<Self> {
        let core = py.detach(|| predictor(vocab_size, oracle, first, name))?;
        Ok(Self { core: core.into() })
    }

    #[getter]
    fn names(&self, py: Python<'_>) -> Vec<String> {
        self.with(py, |core| core.names())
    }

    fn predict<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        self.with(py, |core| core.predict().to_vec()).into_pyarray(py)
    }

    fn weights<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.with(py, |core| core.weights().to_vec()).into_pyarray(py)
    }

    fn expert_probabilities<'py>(&self, py: Python<'py>, token: u16) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let found =
            self.with(py, |core| checked(core, token).map(|token| core.expert_probabilities(token)))?;
        Ok(found.into_pyarray(py))
    }

    fn update(&self, py: Python<'_>, token: u16) -> PyResult<()> {
        Ok(self.with(py, |core| checked(core, token).map(|token| core.update(token)))?)
    }
}

#[pyclass(module = "hybridlm._core", frozen)]
struct Segmenter {
    core: CoreSegmenter,
}

#[pymethods]
impl Segmenter {
    /// `pieces`: of each token its bytes, its score, and whether it is a byte piece.
    #[new]
    fn new(pieces: Vec<(Vec<u8>, f32, bool)>) -> PyResult<Self> {
        let convert = |(bytes, score, byte): (Vec<u8>, f32, bool)| match (bytes.as_slice(), byte) {
            ([], _) => Piece::None,
            (&[value], true) => Piece::Byte(value),
            _ => Piece::Text { bytes, score },
        };
        Ok(Self { core: CoreSegmenter::new(pieces.into_iter().map(convert).collect())? })
    }

    fn encode<'py>(&self, py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyArray1<u16>>> {
        Ok(py.detach(|| self.core.encode(data))?.into_pyarray(py))
    }

    fn decode<'py>(&self, py: Python<'py>, tokens: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let tokens = tokens_array(tokens)?;
        Ok(PyBytes::new(py, &self.core.decode(slice(&tokens))?))
    }

    #[pyo3(signature = (data, oracle=None, first=1, name="oracle", progress=None))]
    fn compress<'py>(
        &self,
        py: Python<'py>,
        data: &[u8],
        oracle: Option<&[u8]>,
        first: u16,
        name: &str,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyBytes>, f64, usize)> {
        let coded = interruptible(py, progress, |control| {
            let mut predictor = predictor(self.core.vocab_size(), oracle, first, name)?;
            compress(data, &self.core, &mut predictor, control)
        })?;
        Ok((PyBytes::new(py, &coded.payload), coded.bits, coded.tokens))
    }

    #[pyo3(signature = (payload, length, oracle=None, first=1, name="payload", progress=None))]
    #[allow(clippy::too_many_arguments)] // Python's, most of them by name
    fn decompress<'py>(
        &self,
        py: Python<'py>,
        payload: &[u8],
        length: usize,
        oracle: Option<&[u8]>,
        first: u16,
        name: &str,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = interruptible(py, progress, |control| {
            let mut predictor = predictor(self.core.vocab_size(), oracle, first, "oracle")?;
            decompress(payload, length, &self.core, &mut predictor, control, name)
        })?;
        Ok(PyBytes::new(py, &data))
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Predictor>()?;
    module.add_class::<Segmenter>()
}
