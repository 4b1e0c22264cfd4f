//! The sparse estimator.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use super::counts::described;
use super::interruptible::interruptible;
use super::name::Name;
use super::vocabulary::{identity, vocabulary, Identity};
use crate::files::AtomicFile;
use crate::oracle::sparse::build::{self, Config, Corpus};
use crate::oracle::sparse::counting::count_shards;
use crate::oracle::sparse::cutoff::Histogram;
use crate::oracle::sparse::fragment::Fragment;
use crate::oracle::sparse::merge::{self, Part};
use crate::oracle::sparse::ngram::NgramSpec;
use crate::oracle::sparse::{counts, counts_file};
use crate::parallel::Control;
use crate::vocabulary::Vocabulary;
use crate::{Error, Result};

#[pyclass(module = "hybridlm._core", frozen)]
struct SparseCounts {
    core: counts::SparseCounts,
}

/// Counts and their weights, all 1 if none are given.
fn weighted<'a>(parts: &'a [PyRef<'_, SparseCounts>], weights: Option<Vec<u32>>) -> Result<Vec<Part<'a>>> {
    let weights = weights.unwrap_or_else(|| vec![1; parts.len()]);
    if weights.len() != parts.len() {
        return Err(Error::input(format!("{} weights for {} counts", weights.len(), parts.len())));
    }
    Ok(parts.iter().zip(weights).map(|(part, weight)| Part { counts: &part.core, weight }).collect())
}

#[pymethods]
impl SparseCounts {
    #[staticmethod]
    #[pyo3(signature = (paths, vocabulary, order, memory, out=None, threads=1, progress=None))]
    #[allow(clippy::too_many_arguments)]
    fn count(
        py: Python<'_>,
        paths: Vec<PathBuf>,
        #[pyo3(from_py_with = vocabulary)] vocabulary: Vocabulary,
        order: usize,
        memory: usize,
        out: Option<PathBuf>,
        threads: usize,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let spec = NgramSpec::new(vocabulary, order)?;
        let core = interruptible(py, progress, |control| {
            count_shards(&paths, spec, memory, out.as_deref(), threads, control)
        })?;
        Ok(Self { core })
    }

    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Ok(Self { core: interruptible(py, None, |control| counts::SparseCounts::open(&path, control))? })
    }

    #[staticmethod]
    #[pyo3(signature = (data, name=Name::of("sparse partial counts")), text_signature = "(data, name='sparse partial counts')")]
    fn from_bytes(py: Python<'_>, data: &[u8], name: Name) -> PyResult<Self> {
        let data = data.to_vec();
        let core = interruptible(py, None, |control| counts::SparseCounts::from_bytes(data, &name, control))?;
        Ok(Self { core })
    }

    /// Reads what `beginning_with` made.
    #[staticmethod]
    fn unnamed(py: Python<'_>, data: &[u8], tokens: u64) -> PyResult<Self> {
        let data = data.to_vec();
        let core = interruptible(py, None, |control| counts::SparseCounts::unnamed(data, tokens, control))?;
        Ok(Self { core })
    }

    #[staticmethod]
    #[pyo3(signature = (parts, out, threads=1, progress=None, weights=None))]
    fn merge(
        py: Python<'_>,
        parts: Vec<PyRef<'_, SparseCounts>>,
        out: PathBuf,
        threads: usize,
        progress: Option<&Bound<'_, PyAny>>,
        weights: Option<Vec<u32>>,
    ) -> PyResult<Self> {
        let parts = weighted(&parts, weights)?;
        let merge = |control: &Control| -> Result<_> {
            merge::merge(&parts, AtomicFile::create(&out)?, &out, threads, control)?.commit()?;
            counts::SparseCounts::open(&out, control)
        };
        Ok(Self { core: interruptible(py, progress, merge)? })
    }

    /// The sum of what `beginning_with` made of the same tokens.
    #[staticmethod]
    #[pyo3(signature = (parts, threads=1, weights=None))]
    fn add(
        py: Python<'_>,
        parts: Vec<PyRef<'_, SparseCounts>>,
        threads: usize,
        weights: Option<Vec<u32>>,
    ) -> PyResult<Self> {
        let parts = weighted(&parts, weights)?;
        let add = |control: &Control| merge::add(&parts, threads, control);
        Ok(Self { core: interruptible(py, None, add)? })
    }

    #[staticmethod]
    #[pyo3(signature = (parts, weights=None))]
    fn heads<'py>(
        py: Python<'py>,
        parts: Vec<PyRef<'py, SparseCounts>>,
        weights: Option<Vec<u32>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let parts = weighted(&parts, weights)?;
        let heads = py.detach(|| merge::heads(&parts))?;
        Ok(PyBytes::new(py, &heads))
    }

    fn beginning_with<'py>(
        &self,
        py: Python<'py>,
        start: usize,
        end: usize,
    ) -> PyResult<(Bound<'py, PyBytes>, u64)> {
        let (data, tokens) =
            interruptible(py, None, |control| self.core.beginning_with(start..end, control))?;
        Ok((PyBytes::new(py, &data), tokens))
    }

    #[pyo3(signature = (threads=1))]
    fn histogram(&self, py: Python<'_>, threads: usize) -> PyResult<Vec<u64>> {
        let found = interruptible(py, None, |control| Histogram::of(&self.core, threads, control))?;
        Ok(found.numbers())
    }

    #[pyo3(signature = (cutoff, threads=1))]
    fn candidates<'py>(&self, py: Python<'py>, cutoff: u64, threads: usize) -> PyResult<Bound<'py, PyBytes>> {
        let packed = interruptible(py, None, |control| {
            let mut packed = Vec::new();
            let found = Fragment::all(&self.core, cutoff, threads, control)?;
            found.into_iter().for_each(|fragment| fragment.pack(&mut packed));
            Ok(packed)
        })?;
        Ok(PyBytes::new(py, &packed))
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.core.spec().vocab_size()
    }

    /// Size, document token, fingerprint of the tokenizer.
    #[getter]
    fn vocabulary(&self) -> Identity {
        identity(&self.core.spec().vocabulary)
    }

    #[getter]
    fn has_document_token(&self) -> bool {
        self.core.has_document_token()
    }

    #[getter]
    fn order(&self) -> usize {
        self.core.spec().order
    }

    #[getter]
    fn tokens(&self) -> u64 {
        self.core.tokens()
    }

    #[getter]
    fn nbytes(&self) -> u64 {
        self.core.byte_count()
    }

    /// (name, tokens, BLAKE3 in hexadecimal) of each shard counted.
    #[getter]
    fn shards(&self) -> Vec<(String, u64, String)> {
        self.core.shards().iter().map(described).collect()
    }

    /// How often each of them was counted.
    #[getter]
    fn weights(&self) -> Vec<u32> {
        self.core.shards().iter().map(|shard| shard.weight).collect()
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let data = py.detach(|| self.core.to_bytes())?;
        Ok(PyBytes::new(py, &data))
    }

    fn occurrences(&self, py: Python<'_>, ngram: Vec<u16>) -> PyResult<u64> {
        Ok(py.detach(|| self.core.occurrences(&ngram))?)
    }

    fn continuations(&self, py: Python<'_>, context: Vec<u16>) -> PyResult<Vec<(u16, u64)>> {
        Ok(py.detach(|| self.core.continuations(&context))?)
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        Ok(py.detach(|| self.core.save(Path::new(&path)))?)
    }

    #[pyo3(signature = (max_bytes, memory, threads=1, progress=None))]
    fn sparse_oracle<'py>(
        &self,
        py: Python<'py>,
        max_bytes: usize,
        memory: usize,
        threads: usize,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let config = Config { max_bytes, memory, threads };
        let file = interruptible(py, progress, |control| build::build(&self.core, &config, control))?;
        Ok(PyBytes::new(py, &file))
    }

    #[pyo3(signature = (candidates, max_bytes, memory, threads=1, progress=None))]
    fn sparse_oracle_of<'py>(
        &self,
        py: Python<'py>,
        candidates: Vec<PyBackedBytes>,
        max_bytes: usize,
        memory: usize,
        threads: usize,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let config = Config { max_bytes, memory, threads };
        let file = interruptible(py, progress, |control| {
            let corpus = Corpus::of(&self.core);
            let mut fragments = Vec::new();
            for packed in candidates {
                fragments.extend(Fragment::unpack(&packed, corpus.spec, "candidates")?);
            }
            build::build_of_candidates(&corpus, fragments, &config, control)
        })?;
        Ok(PyBytes::new(py, &file))
    }
}

/// The cutoff of a file of `max_bytes`, from a sum of `SparseCounts.histogram`.
#[pyfunction]
fn sparse_cutoff(histogram: Vec<u64>, max_bytes: usize, memory: usize) -> PyResult<u64> {
    let config = Config { max_bytes, memory, threads: 1 };
    Ok(build::cutoff(&Histogram::from_numbers(&histogram)?, &config, 0)?)
}

/// The memory that a build takes besides its counts, in bytes.
#[pyfunction]
fn sparse_memory(candidates: u64) -> u64 {
    build::memory_of(candidates)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("SPARSE_PROGRESS", build::PROGRESS)?;
    module.add("SPARSE_COUNTS_MAGIC", PyBytes::new(module.py(), &counts_file::MAGIC.to_le_bytes()))?;
    module.add("SPARSE_CANDIDATES_PER_BYTE", build::CANDIDATES_PER_BYTE)?;
    module.add_function(wrap_pyfunction!(sparse_cutoff, module)?)?;
    module.add_function(wrap_pyfunction!(sparse_memory, module)?)?;
    module.add_class::<SparseCounts>()
}
