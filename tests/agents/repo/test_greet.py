import unittest

import greet


class Greet(unittest.TestCase):
    def test_hello(self):
        self.assertEqual(greet.hello("Ada"), "Hello, Ada!")


if __name__ == "__main__":
    unittest.main()
