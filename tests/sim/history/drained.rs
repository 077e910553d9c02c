//! Drain of a node on which all else goes well: all is stopped, stays so, and is let go again.

use std::time::Duration;

use state::cordon::NodeOrder;
use state::observed::Task;

use super::{CONVERGED_WITHIN, Life, RESYNC};

impl Life {
    /// The node is drained until nothing runs, and nothing is done any more.
    pub(super) async fn drained(&self) -> Result<(), String> {
        self.chas.set_away(false, &self.world);
        self.order(NodeOrder::Drain).await?;
        let (step, mut left) = (Duration::from_secs(5), CONVERGED_WITHIN);
        while let Some(why) = self.undrained() {
            left = left
                .checked_sub(step)
                .ok_or(format!("not drained when all goes well: {why}"))?;
            tokio::time::sleep(step).await;
            self.look()?;
        }
        // One more whole look is due for what settled just now; after it nobody may be looked at.
        tokio::time::sleep(RESYNC * 2).await;
        let looks = self.world.judge().looks;
        tokio::time::sleep(RESYNC * 4).await;
        let more = self.world.judge().looks - looks;
        match self.undrained() {
            Some(why) => Err(format!("drained, and then no more: {why}")),
            None if more > 0 => Err(format!("drained, and yet {more} looks")),
            None => self.look(),
        }
    }

    /// Gives the order until it is carried out.
    pub(super) async fn order(&self, order: NodeOrder) -> Result<(), String> {
        let (step, mut left) = (Duration::from_secs(5), CONVERGED_WITHIN);
        let (world, writer, handle) = (&self.world, &self.writer, &self.handle);
        while !self.operator.order(order, world, writer, handle).await {
            left = left
                .checked_sub(step)
                .ok_or(format!("{order:?} is never carried out"))?;
            tokio::time::sleep(step).await;
            self.look()?;
        }
        Ok(())
    }

    /// Cause for which the node is not drained. `None`: it is.
    fn undrained(&self) -> Option<String> {
        if !self.chas.is_applied(&self.store) {
            return Some("the set waits".to_owned());
        }
        let desired = self.store.desired();
        if let Some(record) = desired.records().find(|record| record.removing) {
            return Some(format!("{} is still being removed", record.name));
        }
        let inner = self.world.inner();
        let mut made = inner.instances.iter();
        let up = made.find(|(_, made)| made.task != Task::Absent);
        up.map(|(name, made)| format!("{name} is {:?}", made.task))
    }
}
