package secret

import "slices"

// recipients are all that w should be encrypted for in the release.
func (v *verifier) recipients(w Want) []string {
	keys := make(map[string][]string)
	for _, h := range w.Hosts {
		keys[h] = v.keys[h]
	}
	var ignored problems
	return recipientsOf(w, keys, v.converted, &ignored)
}

func (v *verifier) hostsReadTheirs(a *Answer) error {
	a.Question = HostsReadTheirs
	return v.eachReleased(a, func(w Want, l *looked, exact []string) {
		if err := CheckStanzas(l.file, exact); err != nil && l.broken == nil {
			a.no("%s in the release is not for those that declare it (%s): %v", w.Path, list(w.Hosts), err)
		}
		for _, h := range w.Hosts {
			switch can, err := l.opens(a, v.in.HostIdentities[h], v.keys[h], exact); {
			case err != nil:
				a.no("%s in the release cannot be decrypted by %s: %v", w.Path, h, err)
			case can == No:
				a.no("%s in the release cannot be decrypted by %s", w.Path, h)
			case can == Unknown:
				a.unknown("whether %s can decrypt %s in the release cannot be told without its private key", h, w.Path)
			}
		}
	})
}

func (v *verifier) hostsNotOthers(a *Answer) error {
	a.Question = HostsNotOthers
	return v.eachReleased(a, func(w Want, l *looked, exact []string) {
		for _, h := range v.hosts {
			if slices.Contains(w.Hosts, h) {
				continue
			}
			switch can, err := l.opens(a, v.in.HostIdentities[h], v.keys[h], exact); {
			case err != nil:
				a.unknown("whether %s can decrypt %s in the release cannot be told: %v", h, w.Path, err)
			case can == Yes:
				a.no("%s in the release can be decrypted by %s, which does not declare it", w.Path, h)
			case can == Unknown:
				a.unknown("whether %s can decrypt %s in the release cannot be told without its private key", h, w.Path)
			}
		}
	})
}

// eachReleased calls f for every declared file that is in the release. That all are there, as recorded, is a part
// of the first question.
func (v *verifier) eachReleased(a *Answer, f func(w Want, l *looked, exact []string)) error {
	for _, w := range v.wants {
		blob, ok := v.in.Released[w.Path]
		first := a.Question == HostsReadTheirs
		if !ok {
			if first {
				a.no("%s, declared by %s, is not in the release", w.Path, list(w.Hosts))
			}
			continue
		}
		if first && v.in.Records != nil && v.in.Records.Files[w.Path].Released != blob {
			a.no("%s in the release is not the blob that the release says", w.Path)
		}
		l, err := v.look(w.Path, blob)
		if err != nil {
			return err
		}
		f(w, l, v.recipients(w))
	}
	return nil
}

func (v *verifier) hostsNotSource(a *Answer) error {
	a.Question = HostsNotSource
	if v.byRules() {
		a.Question = HostsNotSourceRules
	}
	return v.eachSource(a, func(w Want, l *looked, exact []string) {
		for _, h := range v.hosts {
			if v.byRules() && slices.ContainsFunc(v.keys[h], func(k string) bool { return among(exact, k) }) {
				continue
			}
			switch can, err := l.opens(a, v.in.HostIdentities[h], v.keys[h], exact); {
			case err != nil:
				a.unknown("whether %s can decrypt %s on the source branch cannot be told: %v", h, w.Path, err)
			case can == Yes:
				a.no("%s on the source branch can be decrypted by %s", w.Path, h)
			case can == Unknown:
				a.unknown("whether %s can decrypt %s on the source branch cannot be told without its private key", h, w.Path)
			}
		}
	})
}

func (v *verifier) editorsRead(a *Answer) error {
	a.Question = EditorsRead
	if len(v.in.Editors) == 0 && len(v.in.EditorIdentities) == 0 && v.in.Rules == nil {
		a.unknown("neither public nor private keys of editors are known")
		return nil
	}
	who := "the editor "
	if v.byRules() {
		who = "" // it may be a host
	}
	decrypted := false
	err := v.eachSource(a, func(w Want, l *looked, exact []string) {
		if v.decryptsFor(exact) {
			decrypted = true
			if can, err := l.opens(a, v.in.EditorIdentities, nil, nil); err != nil {
				a.no("%s on the source branch cannot be decrypted by the editors' keys given: %v", w.Path, err)
			} else if can != Yes {
				a.no("%s on the source branch cannot be decrypted by the editors' keys given", w.Path)
			}
		}
		for _, key := range exact {
			switch can, err := l.opens(a, nil, []string{key}, exact); {
			case err != nil:
				a.no("%s on the source branch cannot be decrypted by anybody: %v", w.Path, err)
				return
			case can == No:
				a.no("%s on the source branch is not encrypted for %s%s", w.Path, who, short(key))
			case can == Unknown:
				a.unknown("whether %s on the source branch is encrypted for %s%s cannot be told", w.Path, who, short(key))
			}
		}
	})
	if len(v.in.EditorIdentities) > 0 && len(v.sources) > 0 && !decrypted {
		a.unknown("the editors' private keys given are for none of the files on the source branch")
	}
	return err
}

// decryptsFor says whether the editors' private keys given should open a file: each rule has editors of its own.
func (v *verifier) decryptsFor(exact []string) bool {
	if len(v.in.EditorIdentities) == 0 || !v.byRules() {
		return len(v.in.EditorIdentities) > 0
	}
	return slices.ContainsFunc(exact, func(key string) bool {
		mine, known := v.mine[key]
		if !known {
			mine = ofPlugin(key) || fits(v.in.EditorIdentities, key) // what a plugin's key fits cannot be told
			v.mine[key] = mine
		}
		return mine
	})
}

// eachSource calls f for every secret file on the source branch, with the keys that it should be for. That all are there is a part of what editors can read.
func (v *verifier) eachSource(a *Answer, f func(w Want, l *looked, exact []string)) error {
	for _, w := range v.sources {
		blob, ok := v.in.Source[w.Path]
		if !ok {
			if a.Question == EditorsRead {
				a.no("%s, declared by %s, is not on the source branch", w.Path, list(w.Hosts))
			}
			continue
		}
		l, err := v.look(w.Path, blob)
		if err != nil {
			return err
		}
		f(w, l, v.readers(w.Path))
	}
	return nil
}

func (v *verifier) noPlaintext(a *Answer) error {
	a.Question = NoPlaintext
	if v.in.History == nil {
		a.unknown("no history was given")
		return nil
	}
	secret := make(map[string]bool)
	for _, w := range v.sources {
		secret[w.Path] = true
	}
	if v.in.Records != nil {
		for path := range v.in.Records.Files {
			secret[path] = true
		}
	}
	found, err := FindPlaintext(func(p string) bool { return secret[p] }, v.in.History, v.in.Read)
	for _, f := range found {
		a.no("%s; it is known to all who have the repository: change the value", f)
	}
	return err
}
