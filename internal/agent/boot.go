package agent

import (
	"os"
	"strings"
)

// thisBoot tells this boot of the machine from others: by the kernel's word, and by when the first process began, since the machines of a
// test or a container have the kernel of another.
func thisBoot() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	stat, _ := os.ReadFile("/proc/1/stat")
	boot := strings.TrimSpace(string(id))
	// The name of the program, in parentheses, may have blanks (proc(5)); what follows begins with field 3, and field 22 is the time.
	if i := strings.LastIndex(string(stat), ")"); i >= 0 {
		if f := strings.Fields(string(stat)[i+1:]); len(f) > 19 {
			boot += "-" + f[19]
		}
	}
	return boot
}
