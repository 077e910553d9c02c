//! Bodies of answers: read within their limit, and parsed.

use reqwest::Response;
use serde::de::DeserializeOwned;

use super::error::ChasError;
use crate::cause;

/// The whole body of an answer, within its limit of size.
pub(super) async fn read_body(
    mut response: Response,
    bytes_max: usize,
) -> Result<Vec<u8>, ChasError> {
    let mut bytes = Vec::new();
    loop {
        let chunk = response.chunk().await.map_err(|error| {
            ChasError::invalid(format!("the answer broke off: {}", cause::root(&error)))
        })?;
        let Some(chunk) = chunk else {
            return Ok(bytes);
        };
        if bytes.len() + chunk.len() > bytes_max {
            return Err(ChasError::invalid(format!(
                "the answer is larger than {bytes_max} bytes"
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
}

/// Parses an answer, where an empty one stands for the default. An error does not quote it: it may
/// hold a token.
pub(super) fn parse_reply<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, ChasError> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let fault = if error.is_data() {
            "has a member of the wrong type"
        } else {
            "is not JSON"
        };
        ChasError::invalid(format!("the answer {fault} at line {line} column {column}"))
    })
}
