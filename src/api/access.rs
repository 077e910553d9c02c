//! Access of a caller, as its credentials say: what it may do, and with which containers.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use state::access::{NameScope, Role};
use state::spec::parse::Deploy;
use state::spec::{Health, HealthCheck, Probe, VolumeMount};
use tokio_util::sync::CancellationToken;

use super::NodeApi;
use super::caller::CallerPeer;
use super::error::Problem;
use super::query::Parameters;
use crate::view::{ContainerView, FindError, Naming};

/// Beginning of the name of a caller that is a client.
pub(super) const CLIENT: &str = "client:";

/// Caller whose credentials were looked at.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// Name of the caller, as log and audit have it.
    pub(super) by: Arc<str>,
    /// Other end of its connection.
    pub(super) peer: CallerPeer,
    /// Role.
    pub(super) role: Role,
    /// Containers that it has to do with.
    pub(super) names: Arc<NameScope>,
    /// End of its credentials.
    pub(super) end: AccessEnd,
}

/// End of a caller's credentials: the moment that they are taken back, or their time is over.
#[derive(Clone, Debug, Default)]
pub(super) struct AccessEnd {
    pub(super) taken_back: CancellationToken,
    /// End of the belief in the certificate that it has shown.
    pub(super) distrusted: CancellationToken,
    pub(super) expires: Option<SystemTime>,
}

impl AccessEnd {
    /// Waits for it.
    pub(super) async fn reached(self) {
        let over = async {
            match self.expires {
                // A clock that is set while it waits moves the end, by as much.
                Some(end) => {
                    let left = end.duration_since(SystemTime::now());
                    tokio::time::sleep(left.unwrap_or_default()).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.taken_back.cancelled() => {}
            () = self.distrusted.cancelled() => {}
            () = over => {}
        }
    }
}

impl Access {
    /// Everything, for as long as nothing takes it back.
    pub(super) fn full(by: &str, peer: CallerPeer, taken_back: CancellationToken) -> Self {
        Self {
            by: by.into(),
            peer,
            role: Role::Admin,
            names: Arc::default(),
            end: AccessEnd {
                taken_back,
                ..AccessEnd::default()
            },
        }
    }

    /// Name of the client that calls; `None`: it is the operator, by the token or the socket.
    pub(super) fn client(&self) -> Option<&str> {
        self.by.strip_prefix(CLIENT)
    }

    /// Whether the caller has to do with all containers, and so with the node as such.
    pub(super) fn has_all(&self) -> bool {
        *self.names == NameScope::All
    }

    /// Whether the caller has to do with this container.
    pub(super) fn sees(&self, view: &ContainerView) -> bool {
        match view {
            ContainerView::Managed(view) => self.names.has(&view.record.name),
            ContainerView::Unmanaged(_) => self.has_all(),
        }
    }

    /// Refuses a role below `least`.
    pub(super) fn at_least(&self, least: Role) -> Result<(), Problem> {
        if self.role >= least {
            return Ok(());
        }
        Err(Problem::Role(format!(
            "{} has the role {}, and this needs {least}; ask for a token of that role",
            self.by, self.role
        )))
    }

    /// Refuses a body of which a name, its own, a volume's or a secret's, is none that the caller has to do with.
    pub(super) fn may_deploy(&self, deploy: &Deploy) -> Result<(), Problem> {
        if !self.names.has(&deploy.name) {
            return Err(self.beyond("containers", &deploy.name));
        }
        let mut secrets = deploy.spec.secrets.iter().map(|using| &using.name);
        if let Some(secret) = secrets.find(|secret| !self.names.has(secret.as_container())) {
            return Err(self.beyond("secrets", secret));
        }
        let mut volumes = deploy.spec.volumes.iter().filter_map(VolumeMount::volume);
        match volumes.find(|volume| !self.names.has_volume(volume)) {
            None => Ok(()),
            Some(volume) => Err(self.beyond("volumes", volume)),
        }
    }

    /// Refuses a probe that would run another program in a container that is there already, which is not
    /// the right of whoever deploys.
    pub(super) fn may_probe<N: NodeApi>(&self, node: &N, deploy: &Deploy) -> Result<(), Problem> {
        let program = |health: &Option<Health>| match health.as_ref().and_then(Health::check) {
            Some(HealthCheck {
                probe: Probe::Exec { command },
                ..
            }) => Some(command.clone()),
            Some(_) | None => None,
        };
        let Some(wanted) = program(&deploy.spec.health).filter(|_| self.role < Role::Exec) else {
            return Ok(());
        };
        match node.find(deploy.name.as_str(), Naming::Exact) {
            Ok(ContainerView::Managed(view))
                if program(&view.record.spec.health) != Some(wanted) =>
            {
                Err(Problem::Role(format!(
                    "{} has the role {}, and another health.exec of a container that is there already, \
                     {}, needs {}; ask for a token of that role",
                    self.by,
                    self.role,
                    deploy.name,
                    Role::Exec
                )))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Refusal of the name of a thing that the caller has nothing to do with.
    pub(super) fn beyond(&self, things: &str, name: impl fmt::Display) -> Problem {
        Problem::Scope(format!(
            "{} has to do with {things} named {} only, and {name} is none of them",
            self.by, self.names
        ))
    }

    /// Whether values are to be shown, as `reveal=true` asks of an admin.
    pub(super) fn reveals(&self, parameters: &Parameters) -> Result<bool, Problem> {
        let reveals = parameters.flag("reveal")?;
        if reveals {
            self.at_least(Role::Admin)?;
        }
        Ok(reveals)
    }

    /// The container that the caller names. Those that it has nothing to do with are none.
    pub(super) fn find<N: NodeApi>(
        &self,
        node: &N,
        text: &str,
        naming: Naming,
    ) -> Result<ContainerView, FindError> {
        match node.find(text, naming) {
            Ok(view) if self.sees(&view) => Ok(view),
            found if self.has_all() => found,
            Err(FindError::StateUnknown(text)) => Err(FindError::StateUnknown(text)),
            // Another error would tell of the containers of others.
            Ok(_) | Err(_) => Err(FindError::Unknown(text.to_owned())),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Access {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let access = parts.extensions.get::<Self>().cloned();
        access.ok_or_else(|| Problem::Unauthorized("nobody has looked at the caller".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn credentials_end_when_their_time_is_over_or_they_are_taken_back() {
        let ends = async |end: &AccessEnd| {
            let within = Duration::from_mins(1);
            tokio::time::timeout(within, end.clone().reached())
                .await
                .is_ok()
        };
        let forever = AccessEnd::default();
        assert!(!ends(&forever).await);
        forever.taken_back.cancel();
        assert!(ends(&forever).await);
        for (seconds, is_over) in [(30, true), (3600, false)] {
            let end = AccessEnd {
                expires: Some(SystemTime::now() + Duration::from_secs(seconds)),
                ..AccessEnd::default()
            };
            assert_eq!(ends(&end).await, is_over, "{seconds}");
        }
    }
}
