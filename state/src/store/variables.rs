//! Secrets as variables: values with which no process can be started are refused at the door, before
//! anything that runs is ended for them.

use super::batch::Batch;
use crate::id::ContainerName;
use crate::spec::Spec;
use crate::spec::parse::FieldError;

/// Bytes of all variables of a container's own: the kernel takes 2 MiB, with the command and those of
/// the image.
const VARIABLES_BYTES_MAX: usize = (2 << 20) - (128 << 10);
/// Bytes of a variable beside its name and value: `=`, NUL, and a pointer to it.
const VARIABLE_BYTES: usize = 10;

impl Batch<'_> {
    /// Faults of the variables that have secrets: as far as values can be opened now. No value is in
    /// any.
    pub(super) fn unfit(&self, container: &ContainerName, spec: &Spec) -> Vec<FieldError> {
        let key = self.key();
        let Ok(sealer) = key.sealer() else {
            return Vec::new();
        };
        let (mut faults, mut bytes) = (Vec::new(), 0);
        for (index, using) in spec.secrets.iter().enumerate() {
            let Some((env, tag)) = using.env.as_ref().zip(using.tag.as_ref()) else {
                continue;
            };
            let Ok(value) = self.blobs().read(sealer, tag) else {
                continue;
            };
            bytes += env.len() + value.len() + VARIABLE_BYTES;
            if value.contains(&0) || std::str::from_utf8(&value).is_err() {
                let name = &using.name;
                faults.push(FieldError {
                    field: format!("secrets[{index}].env"),
                    message: format!(
                        "the value of {name} is no text (UTF-8, without NUL), as a variable must be"
                    ),
                });
            }
        }
        if bytes == 0 {
            return faults;
        }
        let others = spec.opened_environment(container, &key).unwrap_or_default();
        let others = others.iter();
        bytes += others
            .map(|(name, value)| name.len() + value.len() + VARIABLE_BYTES)
            .sum::<usize>();
        if bytes > VARIABLES_BYTES_MAX {
            faults.push(FieldError {
                field: "secrets".to_owned(),
                message: format!(
                    "all variables have {bytes} bytes together, and {VARIABLES_BYTES_MAX} at most are \
                     possible; put large values into files (\"path\")"
                ),
            });
        }
        faults
    }
}
