package release

import (
	"bytes"
	"encoding/xml"
	"strings"
	"testing"
)

func findings() *Findings {
	f := &Findings{Schema: FindingsSchema, Commit: strings.Repeat("a", 40), Subject: "a | b", Passed: true}
	f.add(Finding{Kind: FoundHost, Name: "ratched", Passed: true, Seconds: 0.25})
	f.add(Finding{Kind: FoundHost, Name: "joker", Detail: "error: 100% wrong\n::stop-commands::x\rand\r::stop-commands::y\n```\x1b"})
	return f
}

func TestAnnotations(t *testing.T) {
	var b bytes.Buffer
	for _, f := range findings().List {
		if err := f.WriteAnnotation(&b); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{
		"::group::host ratched: ok\n",
		"::error title=garrison%3A host joker::error: 100%25 wrong%0A::stop-commands::x%0Dand%0D::stop-commands::y%0A```",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
	for line := range strings.Lines(strings.ReplaceAll(b.String(), "\r", "\n")) {
		if strings.HasPrefix(line, "::stop-commands") {
			t.Error("a log can give commands to the runner")
		}
	}
}

func TestMarkdown(t *testing.T) {
	var b bytes.Buffer
	if err := findings().WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"failed: 1 of 2", `a \| b`, "| **✗** | host | joker |", "````\nerror: 100% wrong"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
}

func TestJUnit(t *testing.T) {
	var b bytes.Buffer
	if err := findings().WriteJUnit(&b); err != nil {
		t.Fatal(err)
	}
	var suite struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Cases    []struct {
			Name    string  `xml:"name,attr"`
			Failure *string `xml:"failure"`
		} `xml:"testcase"`
	}
	if err := xml.Unmarshal(b.Bytes(), &suite); err != nil {
		t.Fatalf("%v in:\n%s", err, b.String())
	}
	if suite.Tests != 2 || suite.Failures != 1 || suite.Cases[0].Failure != nil || suite.Cases[1].Failure == nil || !strings.Contains(*suite.Cases[1].Failure, "wrong") {
		t.Errorf("%+v", suite)
	}
}
