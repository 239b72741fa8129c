package secret

import (
	"errors"
	"runtime"
	"sync"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// errLost is what is wrong with a released file whose bytes are not there.
var errLost = errors.New("what was released is not there")

// Damaged checks released files on all cores: each must be encrypted for its recorded recipients and nobody else. It returns what is
// wrong, by path. files are the released bytes by blob; one that is missing is damage too. Such a file is re-keyed
// by Plan.Distrust.
func Damaged(records map[string]fleet.SecretRecord, files map[string][]byte) map[string]error {
	damaged := map[string]error{}
	var mu sync.Mutex
	paths := make(chan string)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for path := range paths {
				err := errLost
				if file, there := files[records[path].Released]; there {
					err = CheckStanzas(file, records[path].Recipients)
				}
				if err != nil {
					mu.Lock()
					damaged[path] = err
					mu.Unlock()
				}
			}
		})
	}
	for path := range records {
		paths <- path
	}
	close(paths)
	wg.Wait()
	return damaged
}
