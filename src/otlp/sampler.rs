//! Choice of the traces that are sent.

/// Rule by which a trace is sent or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceSampler {
    /// Whether the caller's choice counts, where there is a caller.
    follows_parent: bool,
    /// Traces below this number of the 63 bits of their ids are sent.
    bound: u64,
}

/// Number that every id is below.
const ALL: u64 = 1 << 63;

impl TraceSampler {
    /// The rule with this name (`OTEL_TRACES_SAMPLER`), and its argument.
    ///
    /// # Errors
    /// There is no such rule, or the argument is no part of one.
    pub(super) fn read(name: Option<&str>, argument: Option<&str>) -> Result<Self, String> {
        let name = name.unwrap_or("parentbased_always_on");
        let (follows_parent, rule) = match name.strip_prefix("parentbased_") {
            Some(rule) => (true, rule),
            None => (false, name),
        };
        let bound = match rule {
            "always_on" => ALL,
            "always_off" => 0,
            "traceidratio" => part(argument)?,
            _ => {
                return Err(format!(
                    "OTEL_TRACES_SAMPLER is {name:?}: give always_on, always_off, traceidratio, or one \
                     of them after parentbased_"
                ));
            }
        };
        Ok(Self {
            follows_parent,
            bound,
        })
    }

    /// Whether a trace is sent. `parent`: whether the caller's is.
    pub(super) fn takes(self, parent: Option<bool>, trace_id: [u8; 16]) -> bool {
        if let Some(parent) = parent.filter(|_| self.follows_parent) {
            return parent;
        }
        let [.., a, b, c, d, e, f, g, h] = trace_id;
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1 < self.bound
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a part between 0 and 1 of 2^63 is a number below it"
)]
fn part(argument: Option<&str>) -> Result<u64, String> {
    let argument = argument.unwrap_or("1");
    let part = argument.parse::<f64>().ok();
    match part.filter(|part| (0.0..=1.0).contains(part)) {
        Some(part) => Ok((part * ALL as f64) as u64),
        None => Err(format!(
            "OTEL_TRACES_SAMPLER_ARG is {argument:?}: give a number from 0 to 1"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_s_choice_counts_where_the_rule_says_so() {
        let sampler =
            |name: &str, argument: Option<&str>| TraceSampler::read(Some(name), argument).unwrap();
        let (low, high) = ([0; 16], [255; 16]);
        for (name, argument, alone) in [
            ("always_on", None, [true, true]),
            ("always_off", None, [false, false]),
            ("traceidratio", None, [true, true]),
            ("traceidratio", Some("0"), [false, false]),
            ("traceidratio", Some("0.5"), [true, false]),
            ("traceidratio", Some("1"), [true, true]),
        ] {
            let own = sampler(name, argument);
            let after = sampler(&format!("parentbased_{name}"), argument);
            for (id, taken) in [low, high].into_iter().zip(alone) {
                assert_eq!(own.takes(None, id), taken, "{name} {argument:?}");
                assert_eq!(after.takes(None, id), taken, "{name} {argument:?}");
                for parent in [true, false] {
                    assert_eq!(own.takes(Some(parent), id), taken, "{name}");
                    assert_eq!(after.takes(Some(parent), id), parent, "{name}");
                }
            }
        }
        let default = TraceSampler::read(None, Some("0")).unwrap();
        assert!(default.takes(None, high) && !default.takes(Some(false), low));
        for wrong in ["2", "-0.1", "NaN", "x", ""] {
            TraceSampler::read(Some("traceidratio"), Some(wrong)).unwrap_err();
        }
    }
}
