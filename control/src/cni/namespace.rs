//! The pod's network namespace: a thread of its own enters it, since a namespace belongs to a thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use rtnetlink::Handle;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use super::failure::{Code, Failure};

/// A network namespace that was open when the plugin was called; it lives while this does.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: Arc<OwnedFd>,
    /// As the runtime named it.
    path: String,
}

impl Namespace {
    /// The one that came with a call.
    ///
    /// # Errors
    /// Code 4 where there is none, or it is the one that we are in.
    pub fn of_call(file: Option<OwnedFd>, path: &str) -> Result<Self, Failure> {
        let wrong = |details: String| {
            Failure::new(
                Code::Environment,
                "CNI_NETNS is no pod's network namespace",
                details,
            )
        };
        let file = file.ok_or_else(|| wrong(format!("CNI_NETNS: {path:?} was not open")))?;
        let theirs = identity(&file).map_err(|error| wrong(format!("CNI_NETNS: {path}: {error}")))?;
        let ours = File::open("/proc/thread-self/ns/net").and_then(|file| identity(&file));
        if ours.is_ok_and(|ours| ours == theirs) {
            return Err(wrong(format!("CNI_NETNS: {path} is the node's own")));
        }
        Ok(Self {
            file: Arc::new(file),
            path: path.to_owned(),
        })
    }

    /// Its file.
    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Runs `work` on a thread in the namespace, with a netlink socket there.
    ///
    /// # Errors
    /// Code 4 when the file is no network namespace, 104 when the kernel gives no thread or socket, and those of `work`.
    pub(super) async fn within<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(Handle) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (to, answer) = oneshot::channel();
        let namespace = self.clone();
        let thread = std::thread::Builder::new().name("cni".to_owned());
        let spawned = thread.spawn(move || {
            // Who asked may be gone; what is half made is healed by the next call.
            let _ = to.send(namespace.run(work));
        });
        spawned.map_err(|error| kernel("starting a thread", &error))?;
        answer.await.unwrap_or_else(|_| {
            Err(Failure::new(
                Code::Internal,
                "a thread of ringway-control panicked",
                format!("in {}", self.path),
            ))
        })
    }

    fn run<T>(&self, work: impl AsyncFnOnce(Handle) -> Result<T, Failure>) -> Result<T, Failure> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|error| {
            Failure::new(
                Code::Environment,
                "CNI_NETNS cannot be entered",
                format!("CNI_NETNS: {}: {error}", self.path),
            )
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| kernel("starting a runtime", &error))?;
        runtime.block_on(async {
            let (connection, handle, _) =
                rtnetlink::new_connection().map_err(|error| kernel("opening netlink in the pod", &error))?;
            let connection = tokio::spawn(connection);
            let result = work(handle).await;
            connection.abort();
            result
        })
    }
}

fn identity(file: &impl AsFd) -> io::Result<(u64, u64)> {
    let metadata = File::from(file.as_fd().try_clone_to_owned()?).metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn kernel(what: &str, error: &io::Error) -> Failure {
    Failure::new(Code::Kernel, "the system refuses", format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_namespace_and_none_are_refused() {
        let own = File::open("/proc/thread-self/ns/net").unwrap();
        for file in [None, Some(own.into())] {
            let failure = Namespace::of_call(file, "/x").unwrap_err();
            assert!(failure.is(Code::Environment) && failure.msg.contains("CNI_NETNS"));
        }
    }

    #[tokio::test]
    async fn what_is_no_namespace_cannot_be_entered() {
        let file = File::open("/proc/self/status").unwrap();
        let namespace = Namespace::of_call(Some(file.into()), "/proc/self/status").unwrap();
        let failure = namespace.within(async |_| Ok(())).await.unwrap_err();
        assert!(failure.is(Code::Environment) && failure.details.contains("/proc/self/status"));
    }
}
