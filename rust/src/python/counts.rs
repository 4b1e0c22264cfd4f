//! N-gram counting and the dense estimator.

use std::path::PathBuf;
use std::sync::Mutex;

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray2};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use super::arrays::{slice, tokens as tokens_array};
use super::errors::InputError;
use super::interruptible::interruptible;
use super::name::Name;
use super::vocabulary::{hex, identity, vocabulary, Identity};
use crate::counted_shards::{identify, CountedShard};
use crate::oracle::dense::counts::{Counts, Stream, TableSpec};
use crate::oracle::dense::partial::{self, PartialCounts};
use crate::oracle::dense::table::Table;
use crate::oracle::dense::{ngor_packed, ngor_v1};
use crate::parallel;
use crate::vocabulary::Vocabulary;

#[pyclass(module = "hybridlm._core", frozen)]
struct NgramCounts {
    spec: TableSpec,
    /// None after an error in the middle of counting.
    core: Mutex<Option<PartialCounts>>,
}

impl NgramCounts {
    /// Waits while another thread counts. To be called without the GIL, which that thread needs to report progress.
    fn with_shards<T>(&self, work: impl FnOnce(&PartialCounts) -> crate::Result<T>) -> crate::Result<T> {
        let guard = parallel::lock(&self.core);
        work(guard.as_ref().ok_or_else(spoiled)?)
    }

    fn with<T>(&self, work: impl FnOnce(&Counts) -> crate::Result<T>) -> crate::Result<T> {
        self.with_shards(|partial| work(partial.counts()))
    }

    /// Work that leaves the counts unusable if it fails.
    fn change(&self, work: impl FnOnce(&mut PartialCounts) -> crate::Result<()>) -> crate::Result<()> {
        let mut guard = parallel::lock(&self.core);
        let mut counts = guard.take().ok_or_else(spoiled)?;
        work(&mut counts)?;
        *guard = Some(counts);
        Ok(())
    }

    fn index(&self, order: usize) -> PyResult<usize> {
        let found = self.spec.tables().iter().position(|&(other, _)| other == order);
        found.ok_or_else(|| InputError::new_err(format!("order {order} was not counted")))
    }

    fn matrix<'py, T: numpy::Element>(
        &self,
        py: Python<'py>,
        cells: Vec<T>,
    ) -> PyResult<Bound<'py, PyArray2<T>>> {
        let vocab_size = self.spec.vocab_size();
        let array = Array2::from_shape_vec((cells.len() / vocab_size, vocab_size), cells);
        Ok(array.map_err(|error| PyRuntimeError::new_err(error.to_string()))?.into_pyarray(py))
    }
}

fn spoiled() -> crate::Error {
    crate::Error::input("these counts are incomplete: counting into them was stopped by an error")
}

#[pymethods]
impl NgramCounts {
    #[new]
    #[pyo3(signature = (vocabulary, orders=8, buckets=None))]
    fn new(
        #[pyo3(from_py_with = vocabulary)] vocabulary: Vocabulary,
        orders: usize,
        buckets: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let rows: Vec<(usize, u32)> = match buckets {
            Some(buckets) => buckets
                .iter()
                .map(|(order, rows)| Ok((order.extract()?, rows.extract()?)))
                .collect::<PyResult<_>>()?,
            None => Vec::new(),
        };
        let spec = TableSpec::with_defaults(vocabulary, orders, &rows)?;
        Ok(Self { core: Mutex::new(Some(PartialCounts::new(spec.clone())?)), spec })
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.spec.vocab_size()
    }

    /// Size, document token, fingerprint of the tokenizer.
    #[getter]
    fn vocabulary(&self, py: Python<'_>) -> PyResult<Identity> {
        // What is added may be of a tokenizer that isn't known.
        Ok(py.detach(|| self.with(|counts| Ok(identity(counts.spec().vocabulary()))))?)
    }

    #[getter]
    fn has_document_token(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(py.detach(|| self.with(|counts| Ok(counts.has_document_token())))?)
    }

    #[getter]
    fn orders<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.spec.tables().iter().map(|&(order, _)| order))
    }

    #[getter]
    fn buckets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for &(order, rows) in self.spec.tables() {
            dict.set_item(order, rows)?;
        }
        Ok(dict)
    }

    #[getter]
    fn tokens(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(py.detach(|| self.with(|counts| Ok(counts.tokens())))?)
    }

    #[pyo3(signature = (tokens, threads=1, progress=None))]
    fn count_tokens(
        &self,
        py: Python<'_>,
        tokens: &Bound<'_, PyAny>,
        threads: usize,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let tokens = tokens_array(tokens)?;
        let stream = Stream { tokens: slice(&tokens), path: None };
        interruptible(py, progress, |control| {
            self.change(|partial| partial.counts_mut().count(&[stream], threads, control))
        })
    }

    #[pyo3(signature = (paths, threads=1, progress=None))]
    fn count_shards(
        &self,
        py: Python<'_>,
        paths: Vec<PathBuf>,
        threads: usize,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        interruptible(py, progress, |control| self.change(|partial| partial.count(&paths, threads, control)))
    }

    /// (name, tokens, BLAKE3 in hexadecimal) of each shard counted.
    #[getter]
    fn shards(&self, py: Python<'_>) -> PyResult<Vec<(String, u64, String)>> {
        Ok(py.detach(|| self.with_shards(|partial| Ok(partial.shards().iter().map(described).collect())))?)
    }

    #[staticmethod]
    #[pyo3(signature = (data, name=Name::of("partial counts"), threads=1), text_signature = "(data, name='partial counts', threads=1)")]
    fn from_bytes(py: Python<'_>, data: &[u8], name: Name, threads: usize) -> PyResult<Self> {
        let partial =
            interruptible(py, None, |control| PartialCounts::from_bytes(data, &name, threads, control))?;
        Ok(Self { spec: partial.counts().spec().clone(), core: Mutex::new(Some(partial)) })
    }

    #[pyo3(signature = (data, name=Name::of("partial counts"), threads=1), text_signature = "($self, data, name='partial counts', threads=1)")]
    fn merge_bytes(&self, py: Python<'_>, data: &[u8], name: Name, threads: usize) -> PyResult<()> {
        interruptible(py, None, |control| {
            self.change(|partial| partial.merge_bytes(data, &name, threads, control))
        })
    }

    #[pyo3(signature = (threads=1))]
    fn to_bytes<'py>(&self, py: Python<'py>, threads: usize) -> PyResult<Bound<'py, PyBytes>> {
        let data = interruptible(py, None, |control| {
            self.with_shards(|partial| partial.to_bytes(threads, control))
        })?;
        Ok(PyBytes::new(py, &data))
    }

    fn merge(&self, py: Python<'_>, other: &NgramCounts) -> PyResult<()> {
        if std::ptr::eq(self, other) {
            return Err(InputError::new_err("counts can't be merged into themselves"));
        }
        let add = |other: &PartialCounts| {
            let mut guard = parallel::lock(&self.core);
            guard.as_mut().ok_or_else(spoiled)?.merge(other)
        };
        Ok(py.detach(|| other.with_shards(add))?)
    }

    fn table<'py>(&self, py: Python<'py>, order: usize) -> PyResult<Bound<'py, PyArray2<u64>>> {
        let index = self.index(order)?;
        let cells = py.detach(|| self.with(|counts| Ok(counts.tables()[index].to_vec())))?;
        self.matrix(py, cells)
    }

    #[pyo3(signature = (order, threads=1))]
    fn quantise<'py>(
        &self,
        py: Python<'py>,
        order: usize,
        threads: usize,
    ) -> PyResult<Bound<'py, PyArray2<i8>>> {
        let index = self.index(order)?;
        let cells = py.detach(|| self.with(|counts| Ok(counts.quantise(index, threads))))?;
        self.matrix(py, cells)
    }

    #[pyo3(signature = (level=22, threads=1, progress=None, packed=false))]
    fn dense_oracle<'py>(
        &self,
        py: Python<'py>,
        level: i32,
        threads: usize,
        progress: Option<&Bound<'py, PyAny>>,
        packed: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = interruptible(py, progress, |control| {
            let (vocabulary, tokens, tables) = self.with(|counts| {
                let table = |(index, &(order, rows)): (usize, &(usize, u32))| Table {
                    order,
                    rows,
                    cells: counts.quantise(index, threads),
                };
                let tables = self.spec.tables().iter().enumerate().map(table);
                Ok((*counts.spec().vocabulary(), counts.tokens(), tables.collect::<Vec<_>>()))
            })?;
            let vocab_size = self.spec.vocab_size();
            if packed {
                ngor_packed::encode(&vocabulary, tokens, &tables, level, threads, control)
            } else {
                ngor_v1::encode(vocab_size, &tables, level, threads, control)
            }
        })?;
        Ok(PyBytes::new(py, &bytes))
    }
}

pub(super) fn described(shard: &CountedShard) -> (String, u64, String) {
    (shard.name.clone(), shard.tokens, hex(&shard.hash))
}

#[pyfunction]
#[pyo3(signature = (paths, threads=1))]
fn identify_shards(
    py: Python<'_>,
    paths: Vec<PathBuf>,
    threads: usize,
) -> PyResult<Vec<(String, u64, String)>> {
    let shards = interruptible(py, None, |control| identify(&paths, threads, control))?;
    Ok(shards.iter().map(described).collect())
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("PARTIAL_COUNTS_MAGIC", PyBytes::new(module.py(), &partial::MAGIC.to_le_bytes()))?;
    module.add_function(wrap_pyfunction!(identify_shards, module)?)?;
    module.add_class::<NgramCounts>()
}
