//! The door for deploy bodies from outside: each is checked completely, and every fault of it is
//! told at once, with the field that it is about.

use serde_json::Value;

use super::body::read;

mod set;

pub use super::body::Deploy;
pub use super::fields::FieldError;
pub use set::set;
pub(super) use set::sketch_set;

/// Reads a deploy body.
///
/// # Errors
/// Every fault in it, in the order of the fields. Never empty.
pub fn deploy(body: &Value) -> Result<Deploy, Vec<FieldError>> {
    let mut faults = Vec::new();
    match read(body, "", &mut faults) {
        Some(deploy) if faults.is_empty() => Ok(deploy),
        _ => Err(faults),
    }
}

#[cfg(test)]
mod tests;
