//! `serve --cluster`: makes the server a node before it runs. Runs on the main thread.

use std::error::Error;

use a_chat::Server;

use crate::cli::ClusterArgs;

/// The server as a node of a cluster, if the arguments ask for that.
#[cfg(feature = "cluster")]
pub(crate) fn join(server: Server, args: &ClusterArgs) -> Result<Server, Box<dyn Error>> {
    let Some(cluster) = options(args)? else { return Ok(server) };
    Ok(server.join(cluster)?)
}

/// Checks what can be checked without an engine.
#[cfg(feature = "cluster")]
pub(crate) fn check(args: &ClusterArgs) -> Result<(), Box<dyn Error>> {
    Ok(options(args)?.as_ref().map_or(Ok(()), a_chat::Cluster::validate)?)
}

/// How the node joins, with what stands in the files that are named.
#[cfg(feature = "cluster")]
fn options(args: &ClusterArgs) -> Result<Option<a_chat::Cluster>, Box<dyn Error>> {
    let Some(url) = &args.cluster else { return Ok(None) };
    let node = args.node.clone().map_or_else(host_name, Ok)?;
    let mut cluster = a_chat::Cluster::new(url, node)
        .name(args.cluster_name.clone())
        .hold(args.cluster_hold)
        .lease(args.cluster_lease)
        .first(args.cluster_first);
    if let Some(path) = &args.cluster_password_file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        cluster = cluster.password(text.lines().next().unwrap_or_default());
    }
    Ok(Some(cluster))
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
    check(args).map(|()| server)
}

/// Refuses to be a node.
#[cfg(not(feature = "cluster"))]
pub(crate) fn check(args: &ClusterArgs) -> Result<(), Box<dyn Error>> {
    match &args.cluster {
        None => Ok(()),
        Some(_) => {
            Err("--cluster needs the feature cluster, which this a-chat was built without: \
                        cargo install a-chat --features cluster"
                .into())
        }
    }
}
