//! The sparse estimator.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::interruptible;
use crate::oracle::sparse::build::{self, Settings};
use crate::oracle::sparse::trie::Corpus;
use crate::tokens::{self, Shard};
use crate::Result;

#[pyfunction]
#[pyo3(signature = (paths, vocab_size, order, max_bytes, threads=1, progress=None))]
fn build_sparse<'py>(
    py: Python<'py>,
    paths: Vec<PathBuf>,
    vocab_size: usize,
    order: usize,
    max_bytes: usize,
    threads: usize,
    progress: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let file = interruptible(py, progress, |control| {
        let shards = paths.iter().map(Shard::open).collect::<Result<Vec<_>>>()?;
        for shard in &shards {
            tokens::check_vocabulary(shard.tokens(), 0, vocab_size, shard.path())?;
        }
        let corpus = Corpus::new(shards.iter().map(Shard::tokens), vocab_size)?;
        drop(shards);
        build::build(&corpus, &Settings { order, max_bytes, threads }, control)
    })?;
    Ok(PyBytes::new(py, &file))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("SPARSE_PROGRESS", build::PROGRESS)?;
    module.add_function(wrap_pyfunction!(build_sparse, module)?)
}
