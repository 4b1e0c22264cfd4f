//! NumPy arrays as slices.

use numpy::{Element, PyReadonlyArray1, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::errors::InputError;

/// The array `value` as a contiguous one of one dimension and type `T`, or a refusal that names it.
pub fn array<'py, T: Element>(
    value: &Bound<'py, PyAny>,
    name: &str,
    dtype: &str,
) -> PyResult<PyReadonlyArray1<'py, T>> {
    let wrong = |what: String| {
        PyTypeError::new_err(format!("{name} must be a contiguous 1-D {dtype} array, not {what}"))
    };
    if let Ok(array) = value.extract::<PyReadonlyArray1<'py, T>>() {
        if array.as_slice().is_ok() {
            return Ok(array);
        }
        return Err(wrong("a strided view; use numpy.ascontiguousarray".into()));
    }
    let kind = match value.cast::<PyUntypedArray>() {
        Ok(array) => format!("{}-D {}", array.ndim(), array.dtype()),
        Err(_) => value.get_type().name()?.to_string(),
    };
    Err(wrong(kind))
}

pub fn tokens<'py>(value: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArray1<'py, u16>> {
    array(value, "tokens", "uint16")
}

/// The slice of an array that [`array`] made sure is contiguous.
pub fn slice<'a, T: Element>(array: &'a PyReadonlyArray1<'_, T>) -> &'a [T] {
    array.as_slice().unwrap_or_default()
}

pub fn positions(value: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    let array = array::<i64>(value, "positions", "int64")?;
    let convert = |&position: &i64| {
        usize::try_from(position).map_err(|_| InputError::new_err(format!("position {position} is negative")))
    };
    slice(&array).iter().map(convert).collect()
}
