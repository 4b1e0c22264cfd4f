//! The lossless codec, and the predictor that drives it.

use std::sync::{Arc, Mutex};

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::arrays::{array, slice, tokens as tokens_array};
use super::interruptible::interruptible;
use super::name::Name;
use super::oracle::FrozenOracle;
use crate::codec::predict::{Neural, Predictor as Core};
use crate::codec::segment::{Piece, Segmenter as CoreSegmenter};
use crate::codec::{compress, decompress, Checks};
use crate::parallel::lock;
use crate::{Error, Result};

/// What a Python function raised: the core can't carry it.
type Raised = Arc<Mutex<Option<PyErr>>>;

/// A neural model in Python: a function that is given the latest token and returns float32 [V].
struct Callback {
    function: Py<PyAny>,
    raised: Raised,
}

impl Callback {
    fn call(&self, py: Python<'_>, token: u16, row: &mut [f32]) -> PyResult<()> {
        let result = self.function.bind(py).call1((token,))?;
        let result = array::<f32>(&result, "the neural model's row", "float32")?;
        let result = slice(&result);
        if result.len() != row.len() {
            let (found, wanted) = (result.len(), row.len());
            return Err(Error::input(format!("the neural model's row has {found} of {wanted} tokens")).into());
        }
        row.copy_from_slice(result);
        Ok(())
    }
}

impl Neural for Callback {
    fn next(&mut self, token: u16, row: &mut [f32]) -> Result<()> {
        Python::attach(|py| {
            self.call(py, token, row).map_err(|error| {
                *lock(&self.raised) = Some(error);
                Error::Interrupted
            })
        })
    }
}

#[pyclass(module = "hybridlm._core", frozen)]
struct Predictor {
    core: Mutex<Core>,
    raised: Raised,
}

impl Predictor {
    fn with<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Core) -> Result<T> + Send) -> PyResult<T> {
        let result = py.detach(|| work(&mut lock(&self.core)));
        self.settled(result.map_err(PyErr::from))
    }

    /// What work with the predictor comes to: what the neural model raised, if it did.
    fn settled<T>(&self, result: PyResult<T>) -> PyResult<T> {
        match lock(&self.raised).take() {
            Some(error) => Err(error),
            None => result,
        }
    }
}

#[pymethods]
impl Predictor {
    #[new]
    #[pyo3(signature = (vocab_size, *, neural=None, oracle=None, mixture="stacked", first=1))]
    fn new(
        vocab_size: usize,
        neural: Option<Py<PyAny>>,
        oracle: Option<&Bound<'_, FrozenOracle>>,
        mixture: &str,
        first: u16,
    ) -> PyResult<Self> {
        let raised = Raised::default();
        let neural =
            neural.map(|function| Box::new(Callback { function, raised: raised.clone() }) as Box<dyn Neural>);
        let oracle = oracle.map(|oracle| oracle.get().core.clone());
        let core = Core::new(vocab_size, neural, oracle, mixture, first)?;
        Ok(Self { core: core.into(), raised })
    }

    #[getter]
    fn names(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.with(py, |core| Ok(core.names()))
    }

    fn predict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        Ok(self.with(py, |core| Ok(core.predict()?.to_vec()))?.into_pyarray(py))
    }

    fn weights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        Ok(self.with(py, |core| Ok(core.weights()?.to_vec()))?.into_pyarray(py))
    }

    fn expert_probabilities<'py>(&self, py: Python<'py>, token: u16) -> PyResult<Bound<'py, PyArray1<f64>>> {
        Ok(self.with(py, |core| core.expert_probabilities(token))?.into_pyarray(py))
    }

    fn update(&self, py: Python<'_>, token: u16) -> PyResult<()> {
        self.with(py, |core| core.update(token))
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

    #[pyo3(signature = (data, predictor, progress=None))]
    #[allow(clippy::type_complexity)] // a tuple for Python
    fn compress<'py>(
        &self,
        py: Python<'py>,
        data: &[u8],
        predictor: &Bound<'py, Predictor>,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyBytes>, (u32, Vec<u32>), f64, usize)> {
        let predictor = predictor.get();
        let coded = predictor.settled(interruptible(py, progress, |control| {
            compress(data, &self.core, &mut lock(&predictor.core), control)
        }))?;
        let checks = (coded.checks.first, coded.checks.blocks);
        Ok((PyBytes::new(py, &coded.payload), checks, coded.bits, coded.tokens))
    }

    #[pyo3(signature = (payload, length, checks, predictor, name=Name::of("payload"), progress=None), text_signature = "($self, payload, length, checks, predictor, name='payload', progress=None)")]
    #[allow(clippy::too_many_arguments)] // Python's, most of them by name
    fn decompress<'py>(
        &self,
        py: Python<'py>,
        payload: &[u8],
        length: usize,
        checks: (u32, Vec<u32>),
        predictor: &Bound<'py, Predictor>,
        name: Name,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let predictor = predictor.get();
        let checks = Checks { first: checks.0, blocks: checks.1 };
        let data = predictor.settled(interruptible(py, progress, |control| {
            decompress(payload, length, &checks, &self.core, &mut lock(&predictor.core), control, &name)
        }))?;
        Ok(PyBytes::new(py, &data))
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("CODEC_BLOCK", crate::codec::BLOCK)?;
    module.add_class::<Predictor>()?;
    module.add_class::<Segmenter>()
}
