//! Shards and zstd frames.

use std::path::PathBuf;

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::arrays::{slice, tokens as tokens_array};
use super::errors::InputError;
use super::interruptible::interruptible;
use super::name::Name;
use crate::oracle::dense::contexts;
use crate::tokens::{self, Shard};
use crate::zstd_frame;

#[pyfunction]
fn shard_tokens(py: Python<'_>, path: PathBuf) -> PyResult<usize> {
    Ok(py.detach(|| Shard::count(path))?)
}

#[pyfunction]
fn looks_like(data: &[u8]) -> Option<&'static str> {
    crate::kinds::looks_like(data)
}

#[pyfunction]
#[pyo3(signature = (path, start=0, count=None, vocab_size=None))]
fn read_shard(
    py: Python<'_>,
    path: PathBuf,
    start: usize,
    count: Option<usize>,
    vocab_size: Option<usize>,
) -> PyResult<Bound<'_, PyArray1<u16>>> {
    let tokens = py.detach(|| {
        let part = Shard::read(&path, start, count)?;
        if let Some(vocab_size) = vocab_size {
            tokens::check_vocabulary(&part, start, vocab_size, &path)?;
        }
        Ok::<_, crate::Error>(part)
    })?;
    Ok(tokens.into_pyarray(py))
}

#[pyfunction]
fn write_shard(py: Python<'_>, path: PathBuf, tokens: &Bound<'_, PyAny>) -> PyResult<()> {
    let tokens = tokens_array(tokens)?;
    let tokens = slice(&tokens);
    Ok(py.detach(|| tokens::write_shard(path, tokens))?)
}

#[pyfunction]
#[pyo3(signature = (data, level=22, progress=None))]
fn compress<'py>(
    py: Python<'py>,
    data: &[u8],
    level: i32,
    progress: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let frame = interruptible(py, progress, |control| zstd_frame::compress(data, level, control))?;
    Ok(PyBytes::new(py, &frame))
}

#[pyfunction]
#[pyo3(signature = (data, max_bytes, what))]
fn decompress<'py>(
    py: Python<'py>,
    data: &[u8],
    max_bytes: usize,
    what: Name,
) -> PyResult<Bound<'py, PyBytes>> {
    let content = py.detach(|| zstd_frame::decompress(data, max_bytes, &what))?;
    Ok(PyBytes::new(py, &content))
}

type Overlapping = ((usize, usize), usize, Vec<u64>, Vec<u64>, Option<(usize, usize)>);

#[pyfunction]
#[pyo3(signature = (train, validation, bos_id, lengths, threads=1, progress=None))]
fn overlap(
    py: Python<'_>,
    train: Vec<PathBuf>,
    validation: Vec<PathBuf>,
    bos_id: u16,
    lengths: Vec<usize>,
    threads: usize,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<Overlapping>> {
    let found = interruptible(py, progress, |control| {
        crate::overlap::overlap(&train, &validation, bos_id, &lengths, threads, control)
    })?;
    let described = |document: crate::overlap::DocumentOverlap| {
        (document.place, document.tokens, document.ngrams, document.found, document.copy_of)
    };
    Ok(found.into_iter().map(described).collect())
}

/// zstd frames that come in pieces.
#[pyclass(module = "hybridlm._core")]
struct ZstdDecoder {
    core: zstd_frame::StreamDecoder,
}

#[pymethods]
impl ZstdDecoder {
    #[new]
    fn new(name: &str) -> PyResult<Self> {
        Ok(Self { core: zstd_frame::StreamDecoder::new(name)? })
    }

    #[getter]
    fn inside_frame(&self) -> bool {
        self.core.inside_frame()
    }

    fn decode<'py>(
        &mut self,
        py: Python<'py>,
        data: &[u8],
        max_bytes: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let mut out = vec![0u8; max_bytes];
        let core = &mut self.core;
        let written = py.detach(|| core.decode(data, &mut out))?;
        Ok(PyBytes::new(py, out.get(..written).unwrap_or_default()))
    }
}

/// The row (bucket) of each position's context, for the twins of the hash to be held against.
#[pyfunction]
fn context_buckets<'py>(
    py: Python<'py>,
    tokens: &Bound<'py, PyAny>,
    order: usize,
    rows: u32,
) -> PyResult<Bound<'py, PyArray1<u32>>> {
    let tokens = tokens_array(tokens)?;
    let tokens = slice(&tokens);
    if !(1..=contexts::MAX_ORDER).contains(&order) || rows == 0 {
        return Err(InputError::new_err(format!("no table has order {order} and {rows} rows")));
    }
    let mut out = vec![0u32; tokens.len()];
    py.detach(|| contexts::context_rows_in(tokens, 0..tokens.len(), order, rows, &mut out));
    Ok(out.into_pyarray(py))
}

/// What a part of a file may unpack to.
#[pyfunction]
fn unpacked_limit() -> PyResult<usize> {
    Ok(zstd_frame::limit()?)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ZstdDecoder>()?;
    module.add("LIMIT_VARIABLE", zstd_frame::LIMIT_VARIABLE)?;
    module.add_function(wrap_pyfunction!(unpacked_limit, module)?)?;
    module.add_function(wrap_pyfunction!(overlap, module)?)?;
    module.add_function(wrap_pyfunction!(looks_like, module)?)?;
    module.add_function(wrap_pyfunction!(shard_tokens, module)?)?;
    module.add_function(wrap_pyfunction!(read_shard, module)?)?;
    module.add_function(wrap_pyfunction!(write_shard, module)?)?;
    module.add_function(wrap_pyfunction!(compress, module)?)?;
    module.add_function(wrap_pyfunction!(decompress, module)?)?;
    module.add_function(wrap_pyfunction!(context_buckets, module)?)
}
