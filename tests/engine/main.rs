//! What every engine must do, run against each of them; and what the durable engine does beside that: restarts,
//! `kill -9`, full disks, damaged files; and what the engine of many nodes does: nodes that share, and a Redis that is
//! killed, cut off, or a Cluster.

mod support;

mod bounds;
mod cluster;
mod crash;
mod disk;
mod failover;
mod faults;
mod full;
mod gateways;
mod nodes;
mod order;
mod partition;
mod presence;
mod pushed_policy;
mod replies;
mod subscriber_quota;
mod suite;
