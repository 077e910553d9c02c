//! Order to have an image on the node before a container needs it: the body by which it is given.

use std::time::Duration;

use serde_json::Value;

use crate::reference::ImageReference;
use crate::spec::ImagePull;
use crate::spec::fields::{FieldError, Fields, duration, parsed};

/// Longest time for which an image is kept that no container uses.
pub const KEEP_MAX: Duration = Duration::from_hours(24 * 30);
/// Time where none is given.
pub const KEEP_DEFAULT: Duration = Duration::from_hours(24);

/// Order for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOrder {
    /// Image.
    pub image: ImageReference,
    /// Whether its tag is looked up again where the image is there.
    pub image_pull: ImagePull,
    /// Time for which it is kept although no container uses it; at most [`KEEP_MAX`].
    pub keep: Duration,
}

/// Reads the members of the body.
pub(crate) fn read_order(top: &mut Fields<'_>) -> Option<ImageOrder> {
    let image = top.required("image", parsed);
    let policies = [
        ("if-not-present", ImagePull::IfNotPresent),
        ("always", ImagePull::Always),
    ];
    let image_pull = top.choice("image_pull", &policies);
    let keep = top.read("keep", |value| duration(value, KEEP_MAX));
    Some(ImageOrder {
        image: image?,
        image_pull: image_pull.unwrap_or(ImagePull::Always),
        keep: keep.unwrap_or(KEEP_DEFAULT),
    })
}

/// Reads the body.
///
/// # Errors
/// Every fault in it.
pub fn order(body: &Value) -> Result<ImageOrder, Vec<FieldError>> {
    let mut faults = Vec::new();
    let mut order = None;
    if let Some(mut top) = Fields::of(body, "", &mut faults) {
        order = read_order(&mut top);
        top.finish();
    }
    match order {
        Some(order) if faults.is_empty() => Ok(order),
        _ => Err(faults),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_order_has_an_image_and_a_bounded_time() {
        let read = order(&json!({"image": "nginx"})).unwrap();
        assert_eq!(read.image.to_string(), "docker.io/library/nginx:latest");
        assert_eq!(
            (read.image_pull, read.keep),
            (ImagePull::Always, KEEP_DEFAULT)
        );
        let body = json!({"image": "r.example/a:1", "image_pull": "if-not-present", "keep": "2h"});
        let read = order(&body).unwrap();
        assert_eq!(read.image_pull, ImagePull::IfNotPresent);
        assert_eq!(read.keep, Duration::from_hours(2));
    }

    #[test]
    fn every_fault_of_an_order_is_told_at_once() {
        for (body, expected) in [
            (json!({}), &["image"][..]),
            (json!([]), &[""]),
            (
                json!({"image": "UPPER", "image_pull": "never", "keep": "31d", "x": 1}),
                &["image", "image_pull", "keep", "x"],
            ),
        ] {
            let faults = order(&body).unwrap_err();
            let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
            assert_eq!(fields, expected, "{body}");
        }
    }
}
