package agent_test

import "fmt"

// variants are the systems that hosts can be given: files of hosts/NAME in the fleet.
var variants = map[string]map[string]string{
	"good1": {}, "good2": {}, "good3": {},
	"fails":     {"activate.sh": "echo 'joker: the valve is stuck' >&2; false\n"},
	"reboot":    {"init-interface": "systemd 2\n"},
	"unhealthy": {}, // see switchPatch
	"kernel1":   {"build.sh": "mkdir -p $out; ln -s $base/banner $out/kernel\n"},
	"kernel2":   {"build.sh": "mkdir -p $out; ln -s $base/lib/activate.sh $out/kernel\n"},

	// How the one service of a system does.
	"broken":  {"service.sh": "exit 1\n"},
	"looping": {"service.sh": "exit 1\n", "service.conf": "Type=exec\nRestart=always\nRestartSec=3s\n"},
	"oneshot": {"service.sh": "exit 1\n", "service.conf": "Type=oneshot\n"},
	"flaky": {"service.sh": "[ -e /run/flaky ] || { : > /run/flaky; exit 1; }; exec sleep infinity\n",
		"service.conf": "Type=exec\nRestart=on-failure\nRestartSec=1s\n"},
	// A unit that is new with the system, which starts it without waiting, and is still at it when the switch has ended.
	"slow":      {"activate.sh": slowUnit("exit 0")},
	"slowfails": {"activate.sh": slowUnit("exit 1")},

	// How its switch ends, but for the ways above.
	"refuses":   {"pre-switch.sh": "echo 'joker: not today' >&2; false\n"},
	"exits1":    {"post-switch.sh": "exit 1\n"},
	"exits101":  {"post-switch.sh": "exit 101\n"},
	"dies":      {"post-switch.sh": "kill -KILL $$\n"},
	"cutoff":    {"activate.sh": "ip link set host0 down\n"},
	"connected": {"activate.sh": "ip link set host0 up\n"},

	// What it does to the agent.
	"newunit":   {"activate.sh": editAgent("/^Environment=AGENT_OF/d; s/^ExecStart=/Environment=AGENT_OF=newunit\\n&/")},
	"newbinary": {"activate.sh": "cp -f \"$(readlink -f \"$(command -v garrison)\")\" /opt/garrison.new && mv -f /opt/garrison.new /opt/garrison-2\n" + editAgent("s,^ExecStart=.*,ExecStart=/opt/garrison-2 agent,")},
	"stops":     {"activate.sh": "systemctl stop systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket systemd-journald.service || true\nsystemctl stop garrison-agent\n"},
	"kills":     {"activate.sh": "systemctl kill --signal=KILL garrison-agent\n"},
	"masks": {"activate.sh": "if [ ! -L /etc/systemd/system/garrison-agent.service ]; then mv /etc/systemd/system/garrison-agent.service /etc/agent.away; fi\n" +
		"ln -sfn /dev/null /etc/systemd/system/garrison-agent.service\nsystemctl daemon-reload\nsystemctl stop garrison-agent\n"},

	// What it declares to be checked.
	"checked": checks(`waits = { command = [ "/bin/sh" "-c" "gate=/run/gate/in-check; [ -e $gate ] || exit 0; : > $gate.reached; while [ -e $gate ]; do sleep 0.02; done" ]; timeout = 60; };
		web = { http.url = "` + hubURL + `/healthz"; http.contains = "ok"; };
		door.tcp = "192.0.2.1:8420";`),
	"unitchecked": checks(`demo.unit = "gitops-demo.service";`),
	"badcommand":  checks(`own = { command = [ "/bin/sh" "-c" "echo the pump is off; exit 7" ]; retries = 1; interval = 0; };`),
	"badhttp":     checks(`web = { http.url = "` + hubURL + `/nowhere"; retries = 0; };`),
	"badtcp":      checks(`door = { tcp = "192.0.2.1:9"; retries = 0; };`),
	"badunit":     checks(`valve = { unit = "valve.service"; retries = 0; };`),
	"hangs":       checks(`own = { command = [ "/bin/sh" "-c" "setsid sleep 4000 & sleep 4000" ]; timeout = 600; };`),
}

// checks is a host that declares some.
func checks(text string) map[string]string {
	return map[string]string{"default.nix": "{ nixpkgs.hostPlatform = \"x86_64-linux\"; services.garrison.checks = { " + text + " }; }\n"}
}

// slowUnit is an activation that starts a unit; the switch waits for it 9 s, and it takes 12.
func slowUnit(end string) string {
	return fmt.Sprintf(`mkdir -p /run/systemd/system
printf '[Service]\nType=oneshot\nExecStart=/bin/sh -c "sleep 12; %s"\n' > /run/systemd/system/slow.service
systemctl daemon-reload
systemctl --no-block start slow.service
`, end)
}

// editAgent is an activation that changes the agent's unit.
func editAgent(script string) string {
	return "busybox sed -i '" + script + "' /etc/systemd/system/garrison-agent.service\n"
}
