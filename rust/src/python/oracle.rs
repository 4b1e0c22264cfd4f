//! Frozen oracles.

use std::sync::Arc;

use numpy::ndarray::{Array2, Array3};
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArray3, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray2,
    PyReadwriteArray3,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::arrays::{positions as positions_array, slice, tokens as tokens_array};
use super::errors::InputError;
use super::interruptible::interruptible;
use super::name::Name;
use super::vocabulary::{identity, Identity};
use crate::oracle::dense::table::Table;
use crate::oracle::{self, Info, Oracle};

#[pyclass(module = "hybridlm._core", frozen)]
pub(super) struct FrozenOracle {
    pub(super) core: Arc<dyn Oracle>,
    nbytes: usize,
}

#[pymethods]
impl FrozenOracle {
    #[staticmethod]
    #[pyo3(signature = (data, name=Name::of("oracle"), threads=1), text_signature = "(data, name='oracle', threads=1)")]
    fn from_bytes(py: Python<'_>, data: &[u8], name: Name, threads: usize) -> PyResult<Self> {
        let core = interruptible(py, None, |control| oracle::load(data, &name, threads, control))?;
        Ok(Self { core: core.into(), nbytes: data.len() })
    }

    /// Reads an ARPA file whose ids are of this vocabulary.
    #[staticmethod]
    #[pyo3(signature = (data, vocabulary, name="oracle"))]
    fn from_arpa(
        py: Python<'_>,
        data: &[u8],
        #[pyo3(from_py_with = super::vocabulary::vocabulary)] vocabulary: crate::vocabulary::Vocabulary,
        name: &str,
    ) -> PyResult<Self> {
        let core = interruptible(py, None, |control| {
            crate::oracle::sparse::arpa::decode(data, name, Some(vocabulary), control)
        })?;
        Ok(Self { core: Arc::new(core), nbytes: data.len() })
    }

    #[getter]
    fn estimator(&self) -> &'static str {
        self.core.estimator()
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.core.vocab_size()
    }

    /// Size, document token, fingerprint of the tokenizer.
    #[getter]
    fn vocabulary(&self) -> Identity {
        identity(self.core.vocabulary())
    }

    #[getter]
    fn orders<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.core.orders())
    }

    #[getter]
    fn raising_orders(&self) -> usize {
        self.core.raising_orders()
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.nbytes
    }

    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let info = py.detach(|| self.core.info());
        to_python(py, info)
    }

    #[pyo3(signature = (tokens, start=0, threads=1, out=None))]
    fn target_log_probs<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        start: usize,
        threads: usize,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let tokens = tokens_array(tokens)?;
        let tokens = slice(&tokens);
        let shape = [self.core.orders().len(), tokens.len().saturating_sub(start)];
        let fill = |out: &mut [f32]| oracle::target_log_probs(&*self.core, tokens, start, threads, out);
        match out {
            Some(out) => {
                let array = out.extract::<PyReadwriteArray2<f32>>().map_err(|_| {
                    PyTypeError::new_err(format!("out must be a writable float32 array of shape {shape:?}"))
                })?;
                let mut array = array;
                check_shape(array.as_array().shape(), &shape)?;
                let values =
                    array.as_slice_mut().map_err(|_| PyTypeError::new_err("out must be contiguous"))?;
                py.detach(|| fill(values))?;
                Ok(out.cast::<PyArray2<f32>>()?.clone())
            }
            None => {
                let mut values = vec![0f32; shape.iter().product()];
                py.detach(|| fill(&mut values))?;
                let array = Array2::from_shape_vec(shape, values);
                Ok(array.map_err(|error| InputError::new_err(error.to_string()))?.into_pyarray(py))
            }
        }
    }

    /// How many tokens the longest n-gram of the model has that ends at each target.
    #[pyo3(signature = (tokens, start=0))]
    fn matched_orders<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        start: usize,
    ) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let tokens = tokens_array(tokens)?;
        let tokens = slice(&tokens);
        if start > tokens.len() {
            let length = tokens.len();
            return Err(InputError::new_err(format!("start {start} is beyond the stream's {length} tokens")));
        }
        let mut orders = vec![0u8; tokens.len() - start];
        py.detach(|| {
            crate::tokens::check_tokens(tokens, self.core.vocab_size())?;
            self.core.matched_kernel(tokens, start..tokens.len(), &mut orders);
            Ok::<_, crate::Error>(())
        })?;
        Ok(orders.into_pyarray(py))
    }

    /// Writes the ARPA file of a sparse oracle.
    fn write_arpa(&self, py: Python<'_>, path: std::path::PathBuf) -> PyResult<()> {
        interruptible(py, None, |control| {
            control.check()?;
            let mut file = crate::files::AtomicFile::create(&path)?;
            let mut buffered = std::io::BufWriter::new(&mut file);
            let written = crate::oracle::sparse::arpa::write(&*self.core, &mut buffered)
                .and_then(|written| std::io::Write::flush(&mut buffered).map(|()| written))
                .map_err(|source| crate::Error::io(&path, source))?;
            drop(buffered);
            if !written {
                return Err(crate::Error::input(
                    "a dense oracle has no n-grams, only hashed rows: ARPA holds a sparse one",
                ));
            }
            file.commit()
        })
    }

    #[pyo3(signature = (tokens, positions, threads=1, out=None))]
    fn log_probs<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        positions: &Bound<'py, PyAny>,
        threads: usize,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray3<f32>>> {
        let tokens = tokens_array(tokens)?;
        let tokens = slice(&tokens);
        let positions = positions_array(positions)?;
        let shape = [self.core.orders().len(), positions.len(), self.core.vocab_size()];
        let fill = |out: &mut [f32]| oracle::log_probs(&*self.core, tokens, &positions, threads, out);
        match out {
            Some(out) => {
                let mut array = out.extract::<PyReadwriteArray3<f32>>().map_err(|_| {
                    PyTypeError::new_err(format!("out must be a writable float32 array of shape {shape:?}"))
                })?;
                check_shape(array.as_array().shape(), &shape)?;
                let values =
                    array.as_slice_mut().map_err(|_| PyTypeError::new_err("out must be contiguous"))?;
                py.detach(|| fill(values))?;
                Ok(out.cast::<PyArray3<f32>>()?.clone())
            }
            None => {
                let mut values = vec![0f32; shape.iter().product()];
                py.detach(|| fill(&mut values))?;
                let array = Array3::from_shape_vec(shape, values);
                Ok(array.map_err(|error| InputError::new_err(error.to_string()))?.into_pyarray(py))
            }
        }
    }

    #[pyo3(signature = (tokens, positions, weights, threads=1))]
    fn mixture<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        positions: &Bound<'py, PyAny>,
        weights: &Bound<'py, PyAny>,
        threads: usize,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let tokens = tokens_array(tokens)?;
        let tokens = slice(&tokens);
        let positions = positions_array(positions)?;
        let (experts, columns) = (self.core.orders().len(), positions.len());
        let wrong = || {
            PyTypeError::new_err(format!(
                "weights must be a contiguous float32 array of shape [{experts}] or [{experts}, {columns}]"
            ))
        };
        let weights: Vec<f32> = if let Ok(array) = weights.extract::<PyReadonlyArray1<f32>>() {
            array.as_array().iter().flat_map(|&weight| std::iter::repeat_n(weight, columns)).collect()
        } else {
            let array = weights.extract::<PyReadonlyArray2<f32>>().map_err(|_| wrong())?;
            if array.as_array().shape() != [experts, columns] {
                return Err(wrong());
            }
            array.as_array().iter().copied().collect()
        };
        if weights.len() != experts * columns {
            return Err(wrong());
        }
        let shape = [columns, self.core.vocab_size()];
        let mut values = vec![0f32; shape.iter().product()];
        py.detach(|| oracle::mixture(&*self.core, tokens, &positions, &weights, threads, &mut values))?;
        let array = Array2::from_shape_vec(shape, values);
        Ok(array.map_err(|error| InputError::new_err(error.to_string()))?.into_pyarray(py))
    }

    /// Per table (order, int8 cells [rows, V], float32 log-sums [rows]); None unless the oracle is dense.
    fn dense_tables<'py>(&self, py: Python<'py>) -> PyResult<Option<Vec<DenseTable<'py>>>> {
        let Some(dense) = self.core.dense() else { return Ok(None) };
        let convert = |(index, table): (usize, &Table)| {
            let shape = (table.rows as usize, dense.vocabulary().size);
            let cells = Array2::from_shape_vec(shape, table.cells.clone());
            let cells = cells.map_err(|error| InputError::new_err(error.to_string()))?.into_pyarray(py);
            Ok((table.order, cells, PyArray1::from_slice(py, dense.log_sums(index))))
        };
        dense.tables().iter().enumerate().map(convert).collect::<PyResult<_>>().map(Some)
    }
}

type DenseTable<'py> = (usize, Bound<'py, PyArray2<i8>>, Bound<'py, PyArray1<f32>>);

fn check_shape(found: &[usize], wanted: &[usize]) -> PyResult<()> {
    if found != wanted {
        return Err(InputError::new_err(format!("out has shape {found:?}, but the result {wanted:?}")));
    }
    Ok(())
}

fn to_python(py: Python<'_>, info: Info) -> PyResult<Bound<'_, PyAny>> {
    Ok(match info {
        Info::Int(value) => value.into_pyobject(py)?.into_any(),
        Info::Float(value) => value.into_pyobject(py)?.into_any(),
        Info::List(items) => {
            let items: Vec<_> = items.into_iter().map(|item| to_python(py, item)).collect::<PyResult<_>>()?;
            PyList::new(py, items)?.into_any()
        }
        Info::Map(entries) => {
            let dict = PyDict::new(py);
            for (key, value) in entries {
                dict.set_item(key, to_python(py, value)?)?;
            }
            dict.into_any()
        }
    })
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<FrozenOracle>()
}
