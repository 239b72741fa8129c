package release

import (
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func TestDrillConfig(t *testing.T) {
	c, err := ParseConfig(ConfigPath, []byte("[drill.hosts.a]\nssh = \"root@a.example.org\"\nlog = \"tail /var/log/x\"\n[drill.hosts.b]\nvia = [\"in\", \"b\"]\n[drill.hosts.c]\nlog = \"x\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.Drill.Hosts["a"], c.Drill.Hosts["b"]
	if a.Via[0] != "ssh" || a.Via[len(a.Via)-1] != "root@a.example.org" || a.Log != "tail /var/log/x" || a.Marker != "cat /etc/gitops-test" ||
		strings.Join(b.Via, " ") != "in b" || b.System != "readlink -f /run/current-system" {
		t.Errorf("%+v", c.Drill)
	}
	if c := c.Drill.Hosts["c"]; c.Via[len(c.Via)-1] != "root@c" || c.Log != "x" {
		t.Errorf("%+v", c)
	}
	for _, bad := range []string{"ssh = \"-oProxyCommand=x\"", "ssh = \"a\"\nvia = [\"b\"]", "via = [\"\"]"} {
		if _, err := ParseConfig(ConfigPath, []byte("[drill.hosts.a]\n"+bad+"\n")); fleet.CodeOf(err) != fleet.CodeConfig {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
