//! Times until which images are kept that nothing uses. The wall clock that they were written with may
//! jump: it is asked once for each, and from then on the time that passes counts.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::SystemTime;

use state::image_order::KEEP_MAX;
use tokio::time::Instant;

use super::names::ImageName;
use crate::lock::lock;

/// Names that are remembered, more than a node has images.
const NAMES_MAX: usize = 10_000;

/// Names of images that are kept, each with the time that is noted at it, and its end.
#[derive(Debug, Default)]
pub(super) struct KeptTimes(Mutex<HashMap<String, (SystemTime, Instant)>>);

impl KeptTimes {
    /// Time until which a name is kept, by the wall clock as it is now. `None`: it is not.
    ///
    /// No clock makes that longer than [`KEEP_MAX`] from when it was seen first.
    pub(super) fn until(&self, name: &ImageName) -> Option<SystemTime> {
        self.left(name, SystemTime::now(), Instant::now())
    }

    fn left(&self, name: &ImageName, wall: SystemTime, now: Instant) -> Option<SystemTime> {
        let mut ends = lock(&self.0);
        let Some(noted) = name.kept_until else {
            ends.remove(&name.name);
            return None;
        };
        if ends.len() > NAMES_MAX {
            ends.clear();
        }
        let seen = ends.get(&name.name).filter(|(before, _)| *before == noted);
        let end = seen.map_or_else(
            || now + noted.duration_since(wall).unwrap_or_default().min(KEEP_MAX),
            |(_, end)| *end,
        );
        ends.insert(name.name.clone(), (noted, end));
        let left = end.saturating_duration_since(now);
        (!left.is_zero()).then(|| wall + left)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_jumps_neither_ends_the_time_of_an_image_nor_makes_it_endless() {
        const HOUR: Duration = Duration::from_hours(1);
        let wall = SystemTime::UNIX_EPOCH + 500_000 * HOUR;
        let name = |until: SystemTime| ImageName {
            name: "r/a:1".to_owned(),
            digest: String::new(),
            managed: true,
            created: None,
            kept_until: Some(until),
        };
        let (kept, now) = (KeptTimes::default(), Instant::now());
        let one = name(wall + 2 * HOUR);
        let later = wall + 90_000 * HOUR;
        assert_eq!(kept.left(&one, wall, now), one.kept_until);
        assert_eq!(kept.left(&one, later, now + HOUR), Some(later + HOUR));
        assert_eq!(kept.left(&one, wall, now + 2 * HOUR), None, "it is over");
        let longer = name(wall + 4 * HOUR);
        let end = kept.left(&longer, wall + HOUR, now + HOUR);
        assert_eq!(end, longer.kept_until, "ordered anew");

        let kept = KeptTimes::default();
        let far = name(later);
        assert_eq!(kept.left(&far, wall, now), Some(wall + KEEP_MAX));
        assert_eq!(kept.left(&far, wall, now + KEEP_MAX), None);
        let past = name(wall);
        assert_eq!(kept.left(&past, later, now), None);
    }
}
