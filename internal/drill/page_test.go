package drill_test

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/hub/web/webtest"
)

var update = flag.Bool("update", false, "write docs/dashboard.png and docs/release.png, pictures of the demo's page")

// TestPage looks at the demo's fleet in a browser on the forge's machine: what the agents reported is there, and what one of them reports then appears.
func TestPage(t *testing.T) {
	t.Parallel()
	d := start(t, self(t), false, nil, "--keep")
	d.await("On the forge")
	into := func(host, script string) string {
		t.Helper()
		shell := regexp.MustCompile(`(?m)^  ` + host + ` +(nsenter .*?)\r?$`).FindStringSubmatch(d.said())
		if shell == nil {
			t.Fatalf("no way into %s is shown:\n%s", host, d.said())
		}
		cmd := exec.Command("sh", "-c", shell[1])
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", host, err, out)
		}
		return regexp.MustCompile(`-t (\d+)`).FindStringSubmatch(shell[1])[1]
	}
	secret := "somebody who looks"
	forge := into("forge", fmt.Sprintf("printf '[[token]]\\nname = \"page\"\\nsha256 = \"%x\"\\nscopes = [\"read\"]\\n' >> /etc/garrison/tokens.toml", sha256.Sum256([]byte(secret))))
	tab := webtest.Start(t, "nsenter", "-t", forge, "-n").Open(1180, 760)
	tab.Headers(map[string]string{"Authorization": "Bearer " + secret})
	for _, path := range []string{"/-/releases", "/-/releases/2", "/-/runs", "/-/hosts/ratched", "/-/events", "/-/alerts", "/-/figures", "/"} {
		tab.Go("http://192.0.2.1:8420" + path)
		tab.Until(path+" is live", `document.querySelector("#link").textContent == "live" || !document.body.dataset.live`)
	}
	tab.Until("all hosts have release-2", `["ratched", "joker", "ursula"].every(h => document.querySelector("#host-" + h + ".converged").textContent.includes("2")) && document.querySelector("#host-drhorrible.manual")`)
	into("ratched", "garrison suspend --for 1h --reason 'the audit'")
	tab.Until("ratched is suspended", `document.querySelector("#host-ratched").textContent.includes("suspended until")`)
	if c := tab.Complaints(); len(c) > 0 {
		t.Errorf("the browser complains of %q", c)
	}
	if *update {
		into("ratched", "garrison resume")
		tab.Until("ratched goes on", `!document.querySelector("#host-ratched").textContent.includes("suspended")`)
		for file, path := range map[string]string{"dashboard.png": "/", "release.png": "/-/releases/2"} {
			tab.Go("http://192.0.2.1:8420" + path)
			tab.Until("the page is live", `document.querySelector("#link").textContent == "live"`)
			tab.Shot("../../docs/"+file, false)
		}
	}
}
