// Package monitoring has what Prometheus and Grafana are given to watch a fleet: alerting rules for agents alone (agent-rules.yml) and for a hub
// (hub-rules.yml), each with unit tests for promtool, a dashboard, and lists of what agents and hubs export.
//
// What it guarantees: rules and dashboard name only what is exported. Start at monitoring_test.go.
package monitoring
