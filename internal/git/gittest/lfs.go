package gittest

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// LFS answers as a server of git-lfs's batch API, which keeps contents in a folder and wants user and password when they are given.
func LFS(dir, user, password string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); user != "" && (u != user || p != password) {
			w.Header().Set("WWW-Authenticate", "Basic realm=x")
			w.Header().Set("LFS-Authenticate", "Basic realm=x")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		file := filepath.Join(dir, filepath.Base(r.URL.Path))
		base, batch := strings.CutSuffix(r.URL.Path, "/objects/batch")
		switch {
		case batch:
			answerBatch(w, r, "http://"+r.Host+base, dir)
		case r.Method == http.MethodPut:
			data, err := io.ReadAll(r.Body)
			if err == nil {
				err = os.WriteFile(file, data, 0o644)
			}
			if err != nil {
				w.WriteHeader(http.StatusInternalServerError)
			}
		case r.Method == http.MethodGet && strings.HasSuffix(filepath.Dir(r.URL.Path), "/o"):
			http.ServeFile(w, r, file)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
}

func answerBatch(w http.ResponseWriter, r *http.Request, url, dir string) {
	var b struct {
		Operation string           `json:"operation"`
		Objects   []map[string]any `json:"objects"`
	}
	_ = json.NewDecoder(r.Body).Decode(&b)
	for _, o := range b.Objects {
		id, _ := o["oid"].(string)
		_, err := os.Stat(filepath.Join(dir, id))
		switch {
		case err != nil && b.Operation == "download":
			o["error"] = map[string]any{"code": 404, "message": "not here"}
		case b.Operation == "download" || err != nil:
			o["actions"] = map[string]any{b.Operation: map[string]any{"href": url + "/o/" + id, "header": map[string]string{"Authorization": r.Header.Get("Authorization")}}}
		}
	}
	w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
	_ = json.NewEncoder(w).Encode(map[string]any{"transfer": "basic", "objects": b.Objects})
}
