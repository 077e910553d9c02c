//! The read model: containers, plans, the node's health and its link to CHaS, as they are shown.
//! The API, the report to CHaS and the metrics only render it.

mod capacity;
mod chronicle;
mod container;
mod cordon;
mod disconnect;
mod find;
mod health;
mod image;
mod link;
mod plan;
mod processes;
mod usage;
mod volume;

pub(crate) use capacity::CapacityView;
pub(crate) use chronicle::ChronicleView;
pub(crate) use container::{ContainerView, ManagedView, Moment, ProbeView, UnmanagedView};
pub(crate) use cordon::{CordonView, LeftView};
pub(crate) use disconnect::DisconnectView;
pub(crate) use find::{FindError, Found, Naming, find};
pub(crate) use health::{
    AlarmView, BacklogView, ConfinementView, ErrorView, HealthView, LayerView, UnsettledView,
};
pub(crate) use image::{FetchProgress, ImageView};
pub(crate) use link::LinkView;
pub(crate) use plan::{
    AcquaintancesView, ContainerPlanView, DeployedView, ExplanationView, PlanView, PushSetView,
    SetPlanView, StepView,
};
pub(crate) use processes::ProcessesView;
pub(crate) use usage::UsageView;
pub(crate) use volume::{VolumeContentView, VolumeView};
