//! Changes of what is desired, as the API asks for them. Each is carried to its end and acted on,
//! even if the caller goes away: so the change itself wakes whom it concerns, not the caller after
//! it.

use std::path::PathBuf;
use std::sync::Arc;

use state::access::NameScope;
use state::desired::{Owner, Record};
use state::id::{ContainerId, ContainerName};
use state::log_level::LevelOrder;
use state::ownership::Order;
use state::ownership::answers::{Key, Keyed};
use state::spec::parse::Deploy;
use state::spec::{Content, SecretName};
use state::store::{
    Accepted, ExpectedTag, Idempotent, ReplaceRequest, RollbackRequest, RollbackTarget,
    SecretChange, SecretEntry, Store, StoreError,
};
use tokio::sync::watch;

use super::refusal::refusal;
use super::{AgentNode, plan, wall_ms};
use crate::api::{self, NodeApi, Refusal};
use crate::audit;
use crate::cgroup::usage::UsageDetail;
use crate::exec::{ExecOrder, ExecRefusal, ExecSession};
use crate::feed::EventFeed;
use crate::log_level::LogLevelView;
use crate::reconcile::Handle;
use crate::view::{
    CapacityView, ChronicleView, ContainerView, DeployedView, ExplanationView, FindError,
    HealthView, ManagedView, Naming, PlanView, PushSetView, SetPlanView, UsageView,
};

impl AgentNode {
    pub(super) async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let call = api::current_call();
        let audited = move |store: &Store| audit::acting(call, || change(store));
        self.writer.write(audited).await.map_err(refusal)
    }

    pub(super) fn deployed(&self, accepted: &Accepted) -> DeployedView {
        DeployedView {
            container: self.managed(&accepted.record),
            changed: accepted.changed,
            plan: plan::container_plan(
                self.board(),
                &self.writer.store().desired(),
                &accepted.record,
            )
            .steps,
        }
    }
}

fn wake_all(handle: &Handle, changed: &[Arc<Record>]) {
    for record in changed {
        handle.wake(record.id);
    }
}

impl NodeApi for AgentNode {
    fn keyed(&self, key: Key, request: String) -> Keyed {
        let clock = &self.board().clock;
        Keyed {
            key,
            request,
            boot_id: clock.boot_id(),
            now: clock.now(),
        }
    }

    async fn usage(&self, only: Option<ContainerId>, detail: UsageDetail) -> Vec<UsageView> {
        self.usage_now(only, detail).await
    }

    async fn deploy(
        &self,
        expected: ExpectedTag,
        deploy: Deploy,
        dry_run: bool,
    ) -> Result<DeployedView, Refusal> {
        let deploy = Box::new(deploy);
        self.check_disconnect([&*deploy], |_, field| field.to_owned())?;
        self.check_sizes(&deploy).await?;
        let handle = self.handle.clone();
        let taken = self.write(move |store| {
            let accepted = store.deploy_to(&expected, *deploy, Owner::Push, dry_run, wall_ms())?;
            if accepted.changed && !dry_run {
                handle.wake(accepted.record.id);
            }
            Ok(accepted)
        });
        Ok(self.deployed(&taken.await?))
    }

    async fn deploy_once(
        &self,
        expected: ExpectedTag,
        deploy: Deploy,
        keyed: Keyed,
    ) -> Result<Idempotent<DeployedView>, Refusal> {
        let deploy = Box::new(deploy);
        self.check_disconnect([&*deploy], |_, field| field.to_owned())?;
        self.check_sizes(&deploy).await?;
        let handle = self.handle.clone();
        let taken = self.write(move |store| {
            let answered = store.deploy_once(&expected, *deploy, &keyed, wall_ms())?;
            if let Idempotent::Now(accepted) = &answered
                && accepted.changed
            {
                handle.wake(accepted.record.id);
            }
            Ok(answered)
        });
        Ok(match taken.await? {
            Idempotent::Now(accepted) => Idempotent::Now(self.deployed(&accepted)),
            Idempotent::Before(answer) => Idempotent::Before(answer),
        })
    }

    async fn replace(&self, replacing: ReplaceRequest) -> Result<Idempotent<SetPlanView>, Refusal> {
        let handle = self.handle.clone();
        let dry_run = replacing.dry_run;
        self.check_disconnect(&replacing.wanted, |deploy, field| {
            format!("{}.{field}", deploy.name)
        })?;
        self.check_set_sizes(&replacing.wanted).await?;
        let taken = self.write(move |store| {
            let replaced = match store.replace(replacing, wall_ms())? {
                Idempotent::Now(replaced) => replaced,
                Idempotent::Before(answer) => return Ok(Idempotent::Before(answer)),
            };
            // Before anybody is woken: what is shown is the whole of it. Who waits for another one of
            // the set waits for that one as the set wants it.
            let plan = replaced
                .changed
                .iter()
                .map(|record| plan::container_plan(handle.board(), &replaced.desired, record))
                .collect();
            if !dry_run {
                wake_all(&handle, &replaced.changed);
            }
            Ok(Idempotent::Now(SetPlanView {
                etag: replaced.etag,
                plan,
                unconfirmed: replaced.unconfirmed,
            }))
        });
        taken.await
    }

    async fn confirm(&self, generation: Option<u64>) -> Result<usize, Refusal> {
        let (handle, contact) = (self.handle.clone(), self.contact.clone());
        self.write(move |store| {
            let ended = store.confirm(generation)?;
            ended.iter().for_each(|&id| handle.wake(id));
            handle.board().changed();
            contact.iter().for_each(|contact| contact.poll_now());
            Ok(ended.len())
        })
        .await
    }

    async fn order(
        &self,
        id: ContainerId,
        order: Order,
        expected: ExpectedTag,
    ) -> Result<(), Refusal> {
        let handle = self.handle.clone();
        self.write(move |store| {
            store.order_to(&expected, id, order)?;
            if order == Order::Start {
                handle.start_now(id);
            } else {
                handle.wake(id);
            }
            Ok(())
        })
        .await
    }

    async fn ask_tag(&self, id: ContainerId) -> Result<(), Refusal> {
        let handle = self.handle.clone();
        self.write(move |store| {
            store.ask_tag(id)?;
            handle.ask_now(id);
            Ok(())
        })
        .await
    }

    async fn chronicle(&self, id: ContainerId) -> Result<ChronicleView, Refusal> {
        self.chronicle(id).await
    }

    async fn rollback_target(
        &self,
        request: RollbackRequest,
    ) -> Result<Idempotent<RollbackTarget>, Refusal> {
        self.rollback_target(request).await
    }

    async fn go_back(
        &self,
        request: RollbackRequest,
        target: RollbackTarget,
    ) -> Result<Idempotent<DeployedView>, Refusal> {
        self.go_back(request, target).await
    }

    fn push_set(&self, scope: &NameScope) -> PushSetView {
        self.push_set(scope)
    }

    fn opened(&self, record: &Record) -> Record {
        self.writer.store().opened(record)
    }

    async fn note_reveal(&self, name: Option<ContainerName>) -> Result<(), Refusal> {
        self.write(move |store| store.note_reveal(name)).await
    }

    fn secrets(&self) -> Vec<SecretEntry> {
        self.writer.store().secrets()
    }

    async fn put_secret(&self, name: SecretName, value: Content) -> Result<SecretChange, Refusal> {
        let handle = self.handle.clone();
        self.write(move |store| {
            let value = value.bytes().unwrap_or_default();
            let change = store.put_secret(&name, value, wall_ms())?;
            wake_all(&handle, &change.records);
            Ok(change)
        })
        .await
    }

    async fn remove_secret(&self, name: SecretName) -> Result<(), Refusal> {
        self.write(move |store| store.remove_secret(&name)).await
    }

    async fn exec(
        &self,
        id: ContainerId,
        order: ExecOrder,
        is_local: bool,
    ) -> Result<ExecSession, ExecRefusal> {
        self.exec(id, order, is_local).await
    }

    fn plan(&self) -> PlanView {
        self.plan()
    }

    fn explain(&self, id: ContainerId) -> Option<ExplanationView> {
        self.explain(id)
    }

    fn containers(&self) -> Vec<ContainerView> {
        self.containers()
    }

    fn container(&self, id: ContainerId) -> Option<ManagedView> {
        self.container(id)
    }

    fn find(&self, text: &str, naming: Naming) -> Result<ContainerView, FindError> {
        self.find(text, naming)
    }

    fn feed(&self) -> EventFeed {
        self.journal.feed().clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.board().changes()
    }

    fn logs_dir(&self, id: ContainerId) -> PathBuf {
        self.loggers.directory(id)
    }

    fn capacity(&self) -> CapacityView {
        self.capacity()
    }

    fn health(&self) -> HealthView {
        self.health()
    }

    fn log_level(&self) -> LogLevelView {
        self.log_level.now()
    }

    async fn set_log_level(&self, order: LevelOrder) -> Result<LogLevelView, Refusal> {
        let level = self.log_level.clone();
        // In the write: a caller that is gone by then has asked for it all the same.
        self.write(move |store| {
            store.note_log_level(order.audited())?;
            Ok(level.set_for(&order.level, order.time).then(|| level.now()))
        })
        .await?
        .ok_or_else(|| Refusal::Unavailable("the log does not take this level".to_owned()))
    }
}
