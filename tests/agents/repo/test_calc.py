import unittest

import calc


class Calc(unittest.TestCase):
    def test_multiply(self):
        self.assertEqual(calc.multiply(6, 7), 42)


if __name__ == "__main__":
    unittest.main()
