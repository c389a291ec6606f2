//! The uplink as the kernel has it.

use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::LinkAttribute;

/// Largest IP packet of `interface`, bytes; `None` where it is not there or netlink is not.
///
/// Netlink tells of the network namespace that this process is in; `/sys/class/net` tells of the one that it was mounted in.
pub(crate) async fn mtu(interface: &str) -> Option<u32> {
    let (connection, handle, _) = rtnetlink::new_connection()
        .inspect_err(|error| tracing::warn!(%error, "no netlink, so the uplink's MTU is not known"))
        .ok()?;
    let connection = tokio::spawn(connection);
    let mut links = handle.link().get().match_name(interface.to_owned()).execute();
    let link = links.try_next().await;
    connection.abort();
    link.ok()??
        .attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(mtu),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_loopback_has_an_mtu_and_what_is_missing_has_none() {
        assert!(mtu("lo").await.is_some_and(|mtu| mtu >= 1280));
        assert_eq!(mtu("no-such-link").await, None);
    }
}
