//! The source as the daemon uses it: objects kept up to date, and what they resolve to.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use contract::proto;
use contract::valid::ValidState;
use control::object::Objects;
use control::push::Desired;
use control::resolve::{Endpoints, Mode, Options, resolve};
use control::source::kubernetes::access::{Access, SERVICE_ACCOUNT};
use control::source::kubernetes::{Config, Kubernetes, KubernetesError, Pace};
use control::source::{News, Scope, Source};

use super::PATIENCE;

pub struct Follower {
    pub source: Kubernetes,
    pub objects: Objects,
    /// How often objects changed.
    pub changes: usize,
    /// How often that was told by the short way: a Service's endpoints alone.
    pub short_changes: usize,
    /// What the daemon keeps for that.
    short: Option<(Desired, Endpoints)>,
}

/// Waits that suit a test.
pub fn config(access: Access, directory: Option<&Path>) -> Config {
    Config {
        pace: Pace {
            pause_min: Duration::from_millis(5),
            pause_max: Duration::from_millis(100),
            doubt: Duration::from_millis(50),
            missing: Duration::from_millis(100),
            answer: Duration::from_secs(5),
            watch: Duration::from_secs(30),
        },
        copy_each: Duration::ZERO,
        denied_patience: Duration::from_millis(200),
        ..Config::new("a", access, directory.map(PathBuf::from))
    }
}

/// By a kubeconfig without credentials, which other servers replace.
pub fn access(servers: &[String]) -> Access {
    static DIRECTORY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("kubeconfig"),
            kubeconfig("http://127.0.0.1:1"),
        )
        .unwrap();
        directory
    });
    Access {
        servers: servers.iter().map(|url| url.parse().unwrap()).collect(),
        kubeconfig: Some(directory.path().join("kubeconfig")),
        service_account: SERVICE_ACCOUNT.into(),
    }
}

/// A kubeconfig that leads to `server`.
pub fn kubeconfig(server: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\nusers: [{{name: u, user: {{token: secret}}}}]\n"
    )
}

impl Follower {
    /// Begins, up to the first objects.
    pub async fn start(config: Config) -> Result<Self, KubernetesError> {
        let mut source = Kubernetes::start(config).await?;
        let mut objects = Objects::default();
        tokio::time::timeout(PATIENCE, source.first(&mut objects))
            .await
            .expect("the first objects")?;
        let mut follower = Self {
            source,
            objects,
            changes: 0,
            short_changes: 0,
            short: None,
        };
        follower.note(&Scope::Whole);
        Ok(follower)
    }

    /// The state, if there is one.
    pub fn state(&self) -> Option<proto::State> {
        let options = Options {
            mode: Mode::Cluster,
            pod_views: false,
            ..Options::default()
        };
        let state = resolve(&self.objects, "a", &options).ok()?.state;
        ValidState::try_from(state.clone()).expect("fastpath would take it");
        Some(state)
    }

    /// The daemon's part. The short way leads where the long one does.
    fn note(&mut self, scope: &Scope) {
        let Some(state) = self.state() else {
            self.short = None;
            return;
        };
        self.source.in_force(&self.objects);
        if let (Scope::Slices(slices), Some((desired, endpoints))) = (scope, &mut self.short)
            && let Some(next) = endpoints
                .update(&self.objects, slices)
                .and_then(|services| desired.with(services))
        {
            assert_eq!(*next.whole(), state, "after {slices:?}");
            *desired = next;
            self.short_changes += 1;
            return;
        }
        let endpoints = Endpoints::new(&self.objects, "a", &state);
        self.short = Some((Desired::from(state), endpoints));
    }

    async fn step(&mut self) {
        if let News::Changed(scope) = self.source.next(&mut self.objects).await {
            self.changes += 1;
            self.note(&scope);
        }
    }

    /// Follows until it is so.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !is_so(self) {
                self.step().await;
            }
        });
        assert!(
            waited.await.is_ok(),
            "{what}: never; {:?}\n{:#?}",
            self.source.condition(),
            self.state()
        );
    }

    /// Follows until the state is so.
    pub async fn until_state(&mut self, what: &str, is_so: impl Fn(&proto::State) -> bool) {
        self.until(what, |follower| {
            follower.state().is_some_and(|state| is_so(&state))
        })
        .await;
    }

    /// Follows for a while, however it is.
    pub async fn for_a_while(&mut self, time: Duration) {
        let _ = tokio::time::timeout(time, async {
            loop {
                self.step().await;
            }
        })
        .await;
    }

    /// What is wrong, in one text.
    pub fn problems(&self) -> String {
        self.source.condition().problems.join("\n")
    }
}
