//! The Python binding: converts arguments, releases the GIL, calls the core, converts the result.
//! Nothing else in the crate names pyo3. One submodule per area, each with its own `register`.

mod arrays;
mod baseline;
mod codec;
mod counts;
mod errors;
mod experts;
mod files;
mod interruptible;
mod name;
mod oracle;
mod reference;
mod sparse;
mod tilted;
mod vocabulary;

use errors::{FormatError, InputError};
use pyo3::prelude::*;

/// Free-threaded Python needs no GIL for it: its classes are frozen and lock what they
/// change, or leave it to PyO3 to refuse a second borrower.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("InputError", module.py().get_type::<InputError>())?;
    module.add("FormatError", module.py().get_type::<FormatError>())?;
    files::register(module)?;
    counts::register(module)?;
    oracle::register(module)?;
    sparse::register(module)?;
    reference::register(module)?;
    experts::register(module)?;
    module.add_class::<tilted::TiltedExpert>()?;
    baseline::register(module)?;
    codec::register(module)
}
