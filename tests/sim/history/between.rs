//! Time between two lives of the agent, and what becomes of the node meanwhile.

use std::time::Duration;

use super::{End, Node};
use crate::dice;
use crate::files::Fate;
use crate::plants::{self, Plant};
use crate::silence::Silence;
use crate::verdicts::Verdicts;

impl Node {
    /// Lets time pass, tasks end and files be damaged while the agent is down.
    pub(super) fn between(&mut self, end: End) {
        // A crash loses what the agent saw and did not store yet.
        if end == End::Crash || !self.is_saved {
            self.world.judge().forget_all_exits();
            self.world.judge().forget_starts();
            self.world.judge().mix_answers();
            self.world.judge().lose_answer();
        }
        self.world.judge().forget_gaps();
        let reboot = dice::chance(20);
        self.set_clock();
        for name in self.world.instances() {
            if !self.world.running().contains(&name) {
                // The next agent cannot know exactly how long it had run.
                self.world.judge().forget_exits(name);
            }
            if reboot || dice::chance(5) {
                self.world.lose_task(name);
            } else if dice::chance(15) {
                self.world.end(name);
                self.world.judge().forget_exits(name);
            }
        }
        let down = dice::millis(400_000);
        self.world.judge().passes(down);
        if reboot {
            self.world.judge().was_off(down);
            self.world.judge().rebooted();
            self.world.inner().ports.clear();
            self.verdicts = Verdicts::default();
            self.boots += u128::from(!plants::is(Plant::MissesBoot));
            self.boot_time = dice::millis(5000);
        } else {
            self.boot_time += down;
            self.silence.passes(down);
        }
        self.fate = if self.is_copied {
            self.files.damage()
        } else {
            Fate::Whole
        };
        if self.fate != Fate::Whole {
            self.verdicts = Verdicts::default();
            self.silence = Silence::default();
            self.world.judge().forget_starts();
            self.world.judge().forget_all_exits();
        }
        if self.fate == Fate::Gone {
            self.world.judge().forget_runs();
            let running = self.world.running();
            self.world.judge().protected = self
                .healthy
                .iter()
                .copied()
                .filter(|name| running.contains(name))
                .collect();
        }
        let fate = self.fate;
        self.world
            .judge()
            .trace(|| format!("between: reboot {reboot}, files {fate:?}"));
    }
}

impl Node {
    /// Somebody may set the clock on the wall.
    fn set_clock(&mut self) {
        let (wall, hours) = (self.wall, Duration::from_hours(1));
        self.wall = match dice::below(20) {
            0 | 1 => wall + hours * 2,
            2 => wall.saturating_sub(hours / 2),
            3 => {
                // Whoever set it to that was wrong, and its times count anew.
                self.world.judge().forget_runs();
                wall.saturating_sub(hours * 72)
            }
            _ => wall,
        };
    }
}
