package door
import ("testing";"unsafe")
func TestSizes(t *testing.T){ t.Log(unsafe.Sizeof(conn{}), unsafe.Sizeof(wsLayer{}), unsafe.Sizeof(tlsLayer{})) }
