//! Rest of a node whose CHaS is away for long, once all else goes well.

use std::time::Duration;

use super::{CONVERGED_WITHIN, Life, RESYNC};

impl Life {
    /// CHaS is away for so long that all rests that is to rest, and the rest runs as desired.
    pub(super) async fn rest(&self) -> Result<(), String> {
        let (step, mut left) = (Duration::from_secs(5), CONVERGED_WITHIN);
        self.chas.set_away(false, &self.world);
        while !self.chas.is_applied(&self.store) {
            left = left.checked_sub(step).ok_or("the set waits")?;
            tokio::time::sleep(step).await;
        }
        self.chas.set_away(true, &self.world);
        let unsettled = || {
            let is_long = self.world.judge().is_long_silent();
            match is_long {
                true => self.world.unsettled(&self.store, self.handle.board()),
                false => Some("CHaS is not away for long enough".to_owned()),
            }
        };
        while let Some(why) = unsettled() {
            left = left
                .checked_sub(step)
                .ok_or(format!("not at rest while CHaS is away: {why}"))?;
            tokio::time::sleep(step).await;
            self.look()?;
        }
        tokio::time::sleep(RESYNC * 4).await;
        match unsettled() {
            Some(why) => Err(format!("at rest, and then no more: {why}")),
            None => self.look(),
        }
    }
}
