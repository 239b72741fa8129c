package agent

// prefetchRate is how much of the network a prefetch takes at most unless the configuration says so, in bytes a second.
const prefetchRate = 10_000_000
