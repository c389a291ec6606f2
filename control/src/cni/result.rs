//! What ADD tells, in the format of each version of the specification.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::attachment::{Attachment, GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, mac_text};

/// The result of `attachment` in the format of `version`, appended to that of a plugin before us in the chain.
pub fn encode(
    attachment: &Attachment,
    version: &str,
    dns: &Map<String, Value>,
    previous: Option<&Value>,
) -> Value {
    let before = |key: &str| -> Vec<Value> {
        let list = previous.and_then(|previous| previous[key].as_array());
        list.cloned().unwrap_or_default()
    };
    let mut interfaces = before("interfaces");
    let pod_end = interfaces.len() + 1;
    interfaces.push(json!({"name": attachment.interface, "mac": mac_text(GATEWAY_MAC)}));
    let mut inside = json!({
        "name": attachment.key.ifname,
        "mac": mac_text(attachment.mac),
        "sandbox": attachment.netns,
    });
    if version == "1.1.0" {
        for at in [pod_end - 1, pod_end] {
            let end = if at == pod_end {
                &mut inside
            } else {
                &mut interfaces[at]
            };
            end["mtu"] = attachment.mtu.into();
        }
    }
    interfaces.push(inside);

    let mut ips = before("ips");
    for address in &attachment.addresses {
        let (length, family) = if address.is_ipv4() { (32, "4") } else { (128, "6") };
        let mut ip = json!({
            "address": format!("{address}/{length}"),
            "gateway": gateway(address.is_ipv4()),
            "interface": pod_end,
        });
        // Gone since 1.0.0, needed before.
        if version.starts_with("0.") {
            ip["version"] = family.into();
        }
        ips.push(ip);
    }
    let mut routes = before("routes");
    for gateway in attachment.gateways() {
        let everything = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        routes.push(json!({"dst": everything, "gw": gateway}));
    }
    let mut result = json!({
        "cniVersion": version,
        "interfaces": interfaces,
        "ips": ips,
        "routes": routes,
    });
    let inherited = previous.and_then(|previous| previous["dns"].as_object());
    let dns = if dns.is_empty() { inherited } else { Some(dns) };
    if dns.is_some() || version.starts_with("0.") {
        result["dns"] = Value::Object(dns.cloned().unwrap_or_default());
    }
    result
}

/// What a `prevResult` says of the interface `ifname` in `netns`: its MAC and addresses.
pub(super) fn claims(previous: &Value, ifname: &str, netns: &str) -> Option<(String, Vec<String>)> {
    let interfaces = previous["interfaces"].as_array()?;
    let at = interfaces
        .iter()
        .position(|one| one["name"] == ifname && one["sandbox"] == netns)?;
    let mac = interfaces[at]["mac"].as_str().unwrap_or_default().to_owned();
    let ips = previous["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ours = ips
        .iter()
        .filter(|ip| ip["interface"].as_u64() == Some(at as u64));
    let addresses = ours.filter_map(|ip| ip["address"].as_str().map(str::to_owned));
    Some((mac, addresses.collect()))
}

fn gateway(v4: bool) -> IpAddr {
    if v4 { GATEWAY_V4.into() } else { GATEWAY_V6.into() }
}

#[cfg(test)]
mod tests {
    use super::super::attachment::Key;
    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            key: Key {
                container_id: "c1".into(),
                ifname: "eth0".into(),
            },
            network: "n".into(),
            netns: "/run/netns/x".into(),
            pod_namespace: "default".into(),
            pod_name: "web".into(),
            interface: "rw0".into(),
            mac: [2, 1, 10, 244, 1, 5],
            mtu: 1450,
            addresses: vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            is_complete: true,
        }
    }

    #[test]
    fn each_version_has_its_format() {
        let of = |version| encode(&attachment(), version, &Map::new(), None);
        let newest = of("1.1.0");
        assert_eq!(
            newest,
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [
                    {"name": "rw0", "mac": "ee:ee:ee:ee:ee:ee", "mtu": 1450},
                    {"name": "eth0", "mac": "02:01:0a:f4:01:05", "sandbox": "/run/netns/x", "mtu": 1450},
                ],
                "ips": [
                    {"address": "10.244.1.5/32", "gateway": "169.254.1.1", "interface": 1},
                    {"address": "fd00::5/128", "gateway": "fe80::ecee:eeff:feee:eeee", "interface": 1},
                ],
                "routes": [
                    {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
                    {"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"},
                ],
            })
        );
        let one = of("1.0.0");
        assert!(one["interfaces"][1].get("mtu").is_none() && one["ips"][0].get("version").is_none());
        for old in ["0.3.1", "0.4.0"] {
            let old = of(old);
            assert_eq!(old["ips"][0]["version"], "4");
            assert_eq!(old["ips"][1]["version"], "6");
            assert_eq!(old["dns"], json!({}));
        }
    }

    #[test]
    fn a_result_before_us_is_kept_and_found_again() {
        let previous = json!({
            "interfaces": [{"name": "br0"}],
            "ips": [{"address": "192.0.2.1/24", "interface": 0}],
            "dns": {"nameservers": ["192.0.2.53"]},
        });
        let result = encode(&attachment(), "1.0.0", &Map::new(), Some(&previous));
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
        assert_eq!(result["ips"][1]["interface"], 2);
        assert_eq!(result["dns"]["nameservers"][0], "192.0.2.53");
        let (mac, addresses) = claims(&result, "eth0", "/run/netns/x").unwrap();
        assert_eq!(mac, "02:01:0a:f4:01:05");
        assert_eq!(addresses, ["10.244.1.5/32", "fd00::5/128"]);
        assert!(claims(&result, "eth1", "/run/netns/x").is_none());
    }
}
