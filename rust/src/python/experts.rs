//! Adaptive experts and the mixtures over experts.

use std::borrow::Cow;
use std::sync::Mutex;

use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArrayDyn, PyReadwriteArrayDyn,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::arrays::{slice, tokens as tokens_array};
use crate::experts::adaptive::{self, CLASS_GATES, COUNTING, EVIDENCE, GATES, NAMES};
use crate::fingerprint::Stateful;
use crate::mixtures::{self, geometric::Geometric, Mixture, Sources};
use crate::parallel::lock;
use crate::{Error, Result};

/// Waits for the lock without the GIL, which its holder might be waiting for.
fn with<C: Send, T: Send>(
    py: Python<'_>,
    core: &Mutex<C>,
    work: impl FnOnce(&mut C) -> Result<T> + Send,
) -> PyResult<T> {
    Ok(py.detach(|| work(&mut lock(core)))?)
}

fn matrix<T: numpy::Element>(
    py: Python<'_>,
    data: Vec<T>,
    shape: [usize; 2],
) -> PyResult<Bound<'_, PyArray2<T>>> {
    data.into_pyarray(py).reshape(shape)
}

/// The contiguous array `value` of this many dimensions, and its shape.
fn array<'py, T: numpy::Element>(
    value: &Bound<'py, PyAny>,
    name: &str,
    dtype: &str,
    dimensions: usize,
) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    let array = value.extract::<PyReadonlyArrayDyn<'py, T>>();
    match array {
        Ok(array) if array.ndim() == dimensions && array.is_c_contiguous() => Ok(array),
        _ => Err(PyTypeError::new_err(format!(
            "{name} must be a C-contiguous {dimensions}-D {dtype} array, not {}",
            value.get_type().name()?
        ))),
    }
}

/// The array [K, n, V] that a caller wants rows in.
pub fn rows_array<'py>(value: &Bound<'py, PyAny>) -> PyResult<PyReadwriteArrayDyn<'py, f32>> {
    let array = value.extract::<PyReadwriteArrayDyn<'py, f32>>();
    match array {
        Ok(array) if array.ndim() == 3 && array.is_c_contiguous() => Ok(array),
        _ => Err(PyTypeError::new_err(format!(
            "rows must be a writeable C-contiguous 3-D float32 array, not {}",
            value.get_type().name()?
        ))),
    }
}

#[pyclass(module = "hybridlm._core", frozen)]
struct AdaptiveExperts {
    core: Mutex<adaptive::AdaptiveExperts>,
    vocab_size: usize,
}

#[pymethods]
impl AdaptiveExperts {
    #[new]
    fn new(vocab_size: usize) -> PyResult<Self> {
        let core = adaptive::AdaptiveExperts::new(vocab_size, Default::default())?;
        Ok(Self { core: core.into(), vocab_size })
    }

    #[classattr]
    fn names(py: Python<'_>) -> PyResult<Py<PyTuple>> {
        Ok(PyTuple::new(py, NAMES)?.unbind())
    }

    #[classattr]
    fn gate_sizes(py: Python<'_>) -> PyResult<Py<PyTuple>> {
        Ok(PyTuple::new(py, GATES)?.unbind())
    }

    #[classattr]
    fn counting_names(py: Python<'_>) -> PyResult<Py<PyTuple>> {
        Ok(PyTuple::new(py, COUNTING)?.unbind())
    }

    #[classattr]
    fn evidence_names(py: Python<'_>) -> PyResult<Py<PyTuple>> {
        Ok(PyTuple::new(py, EVIDENCE)?.unbind())
    }

    #[classattr]
    fn class_sizes(py: Python<'_>) -> PyResult<Py<PyTuple>> {
        Ok(PyTuple::new(py, CLASS_GATES)?.unbind())
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn observe(&self, py: Python<'_>, tokens: &Bound<'_, PyAny>) -> PyResult<()> {
        let tokens = tokens_array(tokens)?;
        let tokens = slice(&tokens);
        with(py, &self.core, |core| core.observe(tokens))
    }

    #[pyo3(signature = (tokens, rows=None))]
    #[allow(clippy::type_complexity)] // four arrays
    fn score<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        rows: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(
        Bound<'py, PyArray2<f32>>,
        Bound<'py, PyArray2<u8>>,
        Bound<'py, PyArray2<f32>>,
        Bound<'py, PyArray2<u8>>,
    )> {
        let tokens = tokens_array(tokens)?;
        let tokens = slice(&tokens);
        let mut rows = rows.map(rows_array).transpose()?;
        let rows = rows.as_mut().map(|rows| rows.as_slice_mut()).transpose()?;
        let scored = with(py, &self.core, |core| core.score(tokens, rows))?;
        let n = tokens.len();
        Ok((
            matrix(py, scored.log_probs, [NAMES.len(), n])?,
            matrix(py, scored.gates, [GATES.len(), n])?,
            matrix(py, scored.shares, [EVIDENCE.len(), n])?,
            matrix(py, scored.classes, [EVIDENCE.len(), n])?,
        ))
    }

    fn next_log_probs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        self.rows(py, NAMES.len(), adaptive::AdaptiveExperts::rows)
    }

    fn next_shares<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        self.rows(py, EVIDENCE.len(), adaptive::AdaptiveExperts::share_rows)
    }

    fn next_classes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let classes = with(py, &self.core, |core| Ok(core.classes()))?;
        Ok(classes.to_vec().into_pyarray(py))
    }

    fn fingerprint(&self, py: Python<'_>) -> PyResult<Cow<'static, [u8]>> {
        with(py, &self.core, |core| Ok(core.fingerprint().to_vec().into()))
    }

    fn next_gates<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let gates = with(py, &self.core, |core| Ok(core.gates()))?;
        Ok(gates.to_vec().into_pyarray(py))
    }
}

impl AdaptiveExperts {
    /// The logarithms of `count` rows.
    fn rows<'py>(
        &self,
        py: Python<'py>,
        count: usize,
        fill: impl FnOnce(&adaptive::AdaptiveExperts, &mut [f32]) + Send,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let mut rows = vec![0f32; count * self.vocab_size];
        with(py, &self.core, |core| {
            fill(core, &mut rows);
            rows.iter_mut().for_each(|probability| *probability = probability.ln());
            Ok(())
        })?;
        matrix(py, rows, [count, self.vocab_size])
    }
}

#[pyclass(module = "hybridlm._core", frozen)]
struct LinearMixture {
    core: Mutex<Box<dyn Mixture>>,
    /// K + L.
    rows: usize,
    gates: usize,
}

#[pymethods]
impl LinearMixture {
    #[new]
    #[pyo3(signature = (name, experts, gate_sizes=Vec::new(), base=Vec::new(), lengths=0, ready=Vec::new()))]
    fn new(
        name: &str,
        experts: usize,
        gate_sizes: Vec<usize>,
        base: Vec<usize>,
        lengths: usize,
        ready: Vec<usize>,
    ) -> PyResult<Self> {
        let sources = Sources { experts, gates: &gate_sizes, base: &base, lengths, ready: &ready };
        let core = mixtures::create(name, sources)?;
        Ok(Self { rows: experts + core.lengths(), gates: core.gates().len(), core: core.into() })
    }

    #[classattr]
    fn names(py: Python<'_>) -> PyResult<Py<PyTuple>> {
        Ok(PyTuple::new(py, mixtures::NAMES)?.unbind())
    }

    #[pyo3(signature = (log_probs, gates=None))]
    fn mix<'py>(
        &self,
        py: Python<'py>,
        log_probs: &Bound<'py, PyAny>,
        gates: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        self.run(py, log_probs, gates)
    }

    fn fingerprint(&self, py: Python<'_>) -> PyResult<Cow<'static, [u8]>> {
        with(py, &self.core, |core| Ok(core.fingerprint().to_vec().into()))
    }

    #[pyo3(signature = (gates=None))]
    fn weights<'py>(&self, py: Python<'py>, gates: Option<Vec<u8>>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let mut weights = vec![0f64; self.rows];
        let gates = gates.unwrap_or_default();
        with(py, &self.core, |core| {
            let fit = gates.len() == core.gates().len()
                && gates.iter().zip(core.gates()).all(|(&gate, &values)| usize::from(gate) < values);
            if !fit {
                return Err(Error::input(format!("gates {gates:?} are none of {:?}", core.gates())));
            }
            core.weights(&gates, &mut weights);
            Ok(())
        })?;
        Ok(weights.into_pyarray(py))
    }
}

impl LinearMixture {
    fn run<'py>(
        &self,
        py: Python<'py>,
        log_probs: &Bound<'py, PyAny>,
        gates: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let log_probs = array::<f32>(log_probs, "log_probs", "float32", 2)?;
        let [rows, targets] = [log_probs.shape()[0], log_probs.shape()[1]];
        if rows != self.rows {
            return Err(Error::input(format!("a mixture of {} rows, not {rows}", self.rows)).into());
        }
        let gates = gates.map(|gates| array::<u8>(gates, "gates", "uint8", 2)).transpose()?;
        let shape = gates.as_ref().map_or([0, targets], |gates| [gates.shape()[0], gates.shape()[1]]);
        if shape != [self.gates, targets] {
            let wanted = [self.gates, targets];
            return Err(Error::input(format!("gates of shape {shape:?} where {wanted:?} is needed")).into());
        }
        let log_probs = log_probs.as_slice()?;
        let gates = match &gates {
            Some(gates) => gates.as_slice()?,
            None => &[],
        };
        let mut nll = vec![0f64; targets];
        with(py, &self.core, |core| mixtures::score(core.as_mut(), log_probs, gates, &mut nll))?;
        Ok(nll.into_pyarray(py))
    }
}

#[pyclass(module = "hybridlm._core", frozen)]
struct GeometricMixture {
    core: Mutex<Geometric>,
    experts: usize,
    vocab_size: usize,
}

#[pymethods]
impl GeometricMixture {
    #[new]
    #[pyo3(signature = (experts, vocab_size, ready=Vec::new()))]
    fn new(experts: usize, vocab_size: usize, ready: Vec<usize>) -> PyResult<Self> {
        Ok(Self { core: Geometric::new(experts, &ready, vocab_size)?.into(), experts, vocab_size })
    }

    fn mix<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'py, PyAny>,
        targets: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let rows = array::<f32>(rows, "rows", "float32", 3)?;
        let targets = tokens_array(targets)?;
        let targets = slice(&targets);
        self.check(rows.shape(), &[self.experts, targets.len(), self.vocab_size])?;
        let rows = rows.as_slice()?;
        let mut nll = vec![0f64; targets.len()];
        with(py, &self.core, |core| core.mix(rows, targets, &mut nll))?;
        Ok(nll.into_pyarray(py))
    }

    fn row<'py>(&self, py: Python<'py>, rows: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let rows = array::<f32>(rows, "rows", "float32", 2)?;
        self.check(rows.shape(), &[self.experts, self.vocab_size])?;
        let rows = rows.as_slice()?;
        let mut out = vec![0f64; self.vocab_size];
        with(py, &self.core, |core| {
            let rows: Vec<&[f32]> = rows.chunks_exact(out.len()).collect();
            core.row(&rows, &mut out);
            Ok(())
        })?;
        Ok(out.into_pyarray(py))
    }

    fn fingerprint(&self, py: Python<'_>) -> PyResult<Cow<'static, [u8]>> {
        with(py, &self.core, |core| Ok(core.fingerprint().to_vec().into()))
    }

    #[getter]
    fn exponents<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let exponents = with(py, &self.core, |core| Ok(core.exponents().to_vec()))?;
        Ok(exponents.into_pyarray(py))
    }
}

impl GeometricMixture {
    fn check(&self, shape: &[usize], wanted: &[usize]) -> PyResult<()> {
        if shape != wanted {
            return Err(Error::input(format!("rows of shape {shape:?} where {wanted:?} is needed")).into());
        }
        Ok(())
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<AdaptiveExperts>()?;
    module.add_class::<LinearMixture>()?;
    module.add_class::<GeometricMixture>()
}
