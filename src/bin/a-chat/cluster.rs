//! `serve --cluster`: makes the server a node before it runs. Runs on the main thread.

use std::error::Error;

use a_chat::Server;

use crate::cli::ClusterArgs;

/// The server as a node of a cluster, if the arguments ask for that.
#[cfg(feature = "cluster")]
pub(crate) fn join(server: Server, args: &ClusterArgs) -> Result<Server, Box<dyn Error>> {
    use std::fs;

    use a_chat::Cluster;

    let Some(url) = &args.cluster else { return Ok(server) };
    let node = args.node.clone().map_or_else(host_name, Ok)?;
    let mut cluster = Cluster::new(url, node)
        .name(args.cluster_name.clone())
        .hold(args.cluster_hold)
        .lease(args.cluster_lease)
        .first(args.cluster_first);
    if let Some(path) = &args.cluster_password_file {
        let text = fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        cluster = cluster.password(text.lines().next().unwrap_or_default());
    }
    Ok(server.join(cluster)?)
}

/// The host's name, as a node's.
#[cfg(feature = "cluster")]
fn host_name() -> Result<a_chat::Name, String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    a_chat::Name::new(host.chars().take(32).collect::<String>())
        .map_err(|_| format!("the host's name {host:?} is no node's name, use --node"))
}

/// This program cannot be a node.
#[cfg(not(feature = "cluster"))]
pub(crate) fn join(server: Server, args: &ClusterArgs) -> Result<Server, Box<dyn Error>> {
    match &args.cluster {
        None => Ok(server),
        Some(_) => {
            Err("--cluster needs the feature cluster, which this a-chat was built without: \
                        cargo install a-chat --features cluster"
                .into())
        }
    }
}
