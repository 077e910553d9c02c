//! Looks at the host before a change.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::assign::{AssignError, HostNetwork, PortHolder, QuietNetwork};
use crate::desired::PortBinding;

/// Host that is slow to look at: a look begins, and lasts until the test ends it.
#[derive(Debug)]
struct SlowHost {
    began: Sender<()>,
    end: Mutex<Receiver<()>>,
}

impl HostNetwork for SlowHost {
    fn look(&self) {
        self.began.send(()).unwrap();
        self.end.lock().unwrap().recv().unwrap();
    }

    fn holder(&self, _: &PortBinding) -> Option<PortHolder> {
        None
    }

    fn address(
        &self,
        before: Option<Ipv4Addr>,
        taken: &dyn Fn() -> BTreeSet<Ipv4Addr>,
    ) -> Result<Option<Ipv4Addr>, AssignError> {
        let range = Ipv4Addr::new(10, 0, 0, 2)..=Ipv4Addr::new(10, 0, 0, 9);
        QuietNetwork(range).address(before, taken)
    }
}

#[test]
fn a_slow_look_at_the_host_holds_up_no_other_change() {
    let directory = tempfile::tempdir().unwrap();
    let ((began, looks), (ends, end)) = (channel(), channel());
    let network = SlowHost {
        began,
        end: Mutex::new(end),
    };
    let limits = Limits {
        network: Arc::new(network),
        ..limits()
    };
    let store = Store::open(directory.path(), limits).unwrap();
    let with_port = json!({"name": "a", "image": "x", "exposed_ports": [{"container": 80}]});
    std::thread::scope(|scope| {
        let (store, slow) = (&store, &with_port);
        let deployed = scope.spawn(move || deploy(store, slow).map(|accepted| accepted.changed));
        looks.recv().unwrap();
        // Without ports there is nothing to look for.
        assert!(
            deploy(store, &json!({"name": "b", "image": "x"}))
                .unwrap()
                .changed
        );
        ends.send(()).unwrap();
        assert!(deployed.join().unwrap().unwrap());
    });
    assert!(looks.try_recv().is_err(), "one look for one change");
}
