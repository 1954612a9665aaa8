//! One suite against every engine. The disk engine: restarts, `kill -9`, full disks, damaged files.
//! The Redis engine: several nodes, failures of Redis, a Cluster.

mod support;

mod bounds;
mod cluster;
mod crash;
mod disk;
mod failover;
mod faults;
mod forgery;
mod full;
mod gateways;
mod nodes;
mod order;
mod partition;
mod presence;
mod pushed_policy;
mod replies;
mod restart;
mod subscriber_quota;
mod suite;
mod upgrade;
mod waiting;
mod waiting_gateways;
