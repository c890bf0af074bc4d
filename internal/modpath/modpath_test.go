package modpath

import "testing"

func TestCheck(t *testing.T) {
	for path, ok := range map[string]bool{
		"game": true, "example.com/game": true, "example.com/a_b/c-d~e/v2": true,
		"": false, "/": false, "a/": false, "/a": false, "a//b": false, "a b": false, "../a": false, ".": false, "a./b": false,
		"-a": false, "a\nb": false, "ä": false, `a"b`: false, "a@v1": false,
	} {
		if err := Check(path); (err == nil) != ok {
			t.Errorf("%q: got %v", path, err)
		}
	}
}
