//! The arrays that whole rows of log-probabilities go to.

use crate::{Error, Result};

/// Refuses an array for rows of another shape.
pub(super) fn check_rows(rows: Option<&[f32]>, shape: [usize; 3]) -> Result<()> {
    match rows {
        Some(rows) if rows.len() != shape.iter().product::<usize>() => {
            Err(Error::input(format!("rows of {} values where the shape {shape:?} is needed", rows.len())))
        }
        _ => Ok(()),
    }
}
