//! Causes of an error: the innermost says what happened, the outer ones where.

use std::error::Error;
use std::io;

/// Error and its causes, outermost first.
pub(crate) fn chain<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| below(*error))
}

/// The source of an error: an [`io::Error`] hides the error it wraps, and answers that one's
/// source.
fn below<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

/// Texts of the error and its causes in one line, outermost first, each once: an [`io::Error`] says
/// what it wraps as its own.
#[must_use]
pub(crate) fn all(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = chain(error).map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

/// Text of the innermost cause.
#[must_use]
pub(crate) fn root(error: &(dyn Error + 'static)) -> String {
    chain(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_io_error_wraps_is_told_once() {
        let wrapped = io::Error::other(io::Error::other("the kernel is tired"));
        assert_eq!(all(&wrapped), "the kernel is tired");
        assert_eq!(root(&wrapped), "the kernel is tired");
    }
}
