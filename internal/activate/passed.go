package activate

import "github.com/garrison-nix/garrison/internal/fleet"

// Passed are the stages of request id that have ended well so far, as the journal in dir tells of them: for those who watch.
func Passed(dir, id string) ([]fleet.StageTime, error) {
	steps, err := readSteps(dir, id)
	if err != nil {
		return nil, err
	}
	stageOf := map[string]fleet.Stage{stepTest: fleet.Activate, stepCheck: fleet.Check, stepProfile: fleet.Commit, stepBoot: fleet.Commit}
	var passed []fleet.StageTime
	var begun step
	for _, s := range steps {
		switch {
		case !s.Done && !(s.Step == stepBoot && begun.Step == stepProfile): // profile and boot are one stage
			begun = s
		case s.Done && stageOf[s.Step] != "" && stageOf[s.Step] == stageOf[begun.Step]:
			passed = append(passed, fleet.StageTime{Stage: stageOf[s.Step], StartedAt: begun.At, Seconds: s.At.Sub(begun.At).Seconds()})
		}
	}
	return passed, nil
}
